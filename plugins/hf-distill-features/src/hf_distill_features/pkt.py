"""Probabilistic knowledge transfer: which neighbours each example of a batch has, as a distribution."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill import Paper

from .pooled import PooledLoss, masked_mean, pairs_of

_SMALL = 1e-7


class PKT(PooledLoss):
    """KL between the neighbour distributions of teacher and student, by the cosine kernel.

    The similarity of two examples is ``(1 + cos) / 2``, a row of similarities divided by its sum is a distribution over
    the examples of the batch, and the value is the sum of ``p log(p / q)`` over n^2.

    Paper: Passalis and Tefas 2018, "Learning Deep Representations with Probabilistic Knowledge Transfer",
    arXiv:1803.10837. As in the official code, an example is its own neighbour too, and the sum is
    divided by n^2 rather than n, so that published weights carry over; they are large (30,000 in the CRD benchmark).

    See `PooledLoss` for the options and for what a batch is.
    """

    paper = Paper(
        "Passalis and Tefas",
        2018,
        title="Learning Deep Representations with Probabilistic Knowledge Transfer",
        name="PKT",
        arxiv="1803.10837",
    )

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """`pkt`."""
        return pkt(student, teacher, present)


def pkt(student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
    """The loss of vectors ``[B, H]`` and ``[B, H']``, those that are `present`, a scalar."""
    pairs = pairs_of(present)
    p, q = _neighbours(teacher, pairs), _neighbours(student, pairs)
    return masked_mean(p * ((p + _SMALL) / (q + _SMALL)).log(), pairs)


def _neighbours(vectors: Tensor, pairs: Tensor) -> Tensor:
    directions = nn.functional.normalize(vectors, dim=1)
    similarities = (directions @ directions.T + 1) / 2 * pairs
    return similarities / similarities.sum(1, keepdim=True).clamp_min(_SMALL)
