"""Similarity-preserving KD: which examples of a batch excite the teacher alike."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill import Paper

from .pooled import PooledLoss, masked_mean, pairs_of


class SimilarityPreserving(PooledLoss):
    """Mean squared difference of the two similarity matrices of the batch, each row scaled to length one.

    With A the vectors ``[n, H]``: G = A A^T, rows divided by their L2 norm, and ``|G_teacher - G_student|^2 / n^2``.

    Paper: Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", arXiv:1907.09682. There A is the whole
    feature map of an example, which is ``pooling="flatten"``; the default here is its mean, which does not depend on
    where in a sequence something stands.

    See `PooledLoss` for the options and for what a batch is.
    """

    paper = Paper("Tung and Mori", 2019, title="Similarity-Preserving Knowledge Distillation", arxiv="1907.09682")

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """`similarity_preserving`."""
        return similarity_preserving(student, teacher, present)


def similarity_preserving(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """The loss of vectors ``[B, H]`` and ``[B, H']``, those that are `present` (zeros elsewhere), a scalar."""
    return masked_mean((_similarities(student) - _similarities(teacher)).square(), pairs_of(present))


def _similarities(vectors: Tensor) -> Tensor:
    return nn.functional.normalize(vectors @ vectors.T, dim=1)
