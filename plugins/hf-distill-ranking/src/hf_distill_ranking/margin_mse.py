"""Margin-MSE: how far the relevant document is ahead of the other one is what the student learns."""

from __future__ import annotations

from torch import Tensor

from hf_distill import Batch, Paper

from .ranking import RankingLoss, documents_of, relevance_of


class MarginMSE(RankingLoss):
    """Mean squared error between the margins of student and teacher, ``((s+ - s-) - (t+ - t-))^2``.

    A cross-encoder's scores have another scale and, query by query, another origin than a bi-encoder's. Margins do not
    depend on the origin; on the scale they do. The mean is over all pairs of a more and a less relevant document of a
    query: the triples of the paper, where a query has one of each. No temperature, and labels say no more than which
    document is the relevant one.

    Paper: Hofstaetter et al. 2020, "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge
    Distillation", arXiv:2010.02666, and its code (neural-ranking-kd, MarginMSELoss). The paper's teacher is a mean of
    cross-encoders: give the loss once for each, with equal weights, which has the same gradient.

    See `RankingLoss` for the options.
    """

    paper = Paper(
        "Hofstaetter et al.",
        2020,
        title="Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation",
        name="Margin-MSE",
        arxiv="2010.02666",
    )

    def values(self, student: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """`margin_errors`."""
        assert teacher is not None
        return margin_errors(student, teacher)

    def weights(self, batch: Batch) -> Tensor:
        """Pairs of a query's documents of which the first is more relevant, ``[B, K, K]``."""
        relevance, there = relevance_of(batch), documents_of(batch) & batch.row_mask[:, None]
        return (relevance[:, :, None] > relevance[:, None, :]) & there[:, :, None] & there[:, None, :]


def margin_errors(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared errors of the margins of all pairs, ``[B, K, K]`` as [query, document ahead, other], of ``[B, K]``."""
    gap = student - teacher
    return (gap[:, :, None] - gap[:, None, :]).square()
