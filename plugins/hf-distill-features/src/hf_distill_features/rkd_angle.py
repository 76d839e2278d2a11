"""Relational KD by angles: triplets of examples at the same angles as the teacher has them."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill import Paper

from .pooled import PooledLoss, masked_mean, pairs_of


class RKDAngle(PooledLoss):
    """Smooth L1 between the cosines of all angles that three examples form.

    Costs n^3 numbers and n^2 H of memory for n examples of a micro-batch.

    Paper: Park et al. 2019, "Relational Knowledge Distillation", arXiv:1904.05068, the angle-wise loss. As in the
    official code, the mean runs over all n^3 ordered triplets, those with an example twice included (cosine 0 on both
    sides where a side has no length).

    See `PooledLoss` for the options and for what a batch is.
    """

    paper = Paper("Park et al.", 2019, title="Relational Knowledge Distillation", name="RKD", arxiv="1904.05068")

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """`rkd_angle`."""
        return rkd_angle(student, teacher, present)


def rkd_angle(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """The loss of vectors ``[B, H]`` and ``[B, H']``, those that are `present`, a scalar."""
    gaps = nn.functional.smooth_l1_loss(cosines(student), cosines(teacher), reduction="none")
    return masked_mean(gaps, pairs_of(present)[:, :, None] & present)


def cosines(vectors: Tensor) -> Tensor:
    """Cosine of the angle at example j between those to i and k, ``[B, B, B]`` as [j, i, k], of ``[B, H]``."""
    directions = nn.functional.normalize(vectors[None, :, :] - vectors[:, None, :], dim=2)
    return directions @ directions.transpose(1, 2)
