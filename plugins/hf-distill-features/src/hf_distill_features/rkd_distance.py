"""Relational KD by distances: examples as far apart, relative to each other, as the teacher has them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_distill import Paper

from .pooled import PooledLoss, masked_mean, pairs_of


class RKDDistance(PooledLoss):
    """Smooth L1 between the pairwise Euclidean distances, each divided by its own model's mean distance.

    Paper: Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, the distance-wise loss. As in the
    official code, the mean runs over all n^2 ordered pairs, an example with itself included, and the mean distance over
    the pairs that are apart. Where the two losses go together, the paper gives them weights 25 (distance) and 50
    (angle).

    See `PooledLoss` for the options and for what a batch is.
    """

    paper = Paper("Park et al.", 2019, title="Relational Knowledge Distillation", name="RKD", arxiv="1904.05068")

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """`rkd_distance`."""
        return rkd_distance(student, teacher, present)


def rkd_distance(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """The loss of vectors ``[B, H]`` and ``[B, H']``, those that are `present`, a scalar."""
    pairs = pairs_of(present)
    student_distances, teacher_distances = relative_distances(student, pairs), relative_distances(teacher, pairs)
    return masked_mean(nn.functional.smooth_l1_loss(student_distances, teacher_distances, reduction="none"), pairs)


def relative_distances(vectors: Tensor, pairs: Tensor) -> Tensor:
    """Euclidean distances of ``[B, H]`` over their mean over the `pairs` that are apart, ``[B, B]``."""
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")  # exact for near vectors
    mean = masked_mean(distances, pairs & (distances > 0))
    return distances / torch.where(mean > 0, mean, 1)
