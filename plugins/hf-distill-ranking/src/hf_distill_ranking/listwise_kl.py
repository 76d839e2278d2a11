"""Listwise KL: the documents of a query as one distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Batch, Paper

from .ranking import RankingLoss, documents_of


class ListwiseKL(RankingLoss):
    """``T^2 KL(softmax(t / T) || softmax(s / T))`` over the documents of a query, the mean over queries.

    Needs no labels. Neither side's origin matters, and where the documents are many, those that both models put last
    hardly do.

    Args:
        pooling, normalize, scale, column: see `RankingLoss`.
        temperature: T; above 1 the order of the lower documents counts more. The square keeps the gradient's size, as
            in `hf_distill`'s losses on logits.

    Raises:
        ValueError: an option out of its range.

    Paper: Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise Approach" (ListNet, top-one
    probabilities), with the teacher's scores for labels as in RocketQAv2 (Ren et al. 2021, arXiv:2110.07367, where T is
    1 and the teacher learns along, which it does not here). After the papers' description.
    """

    paper = Paper(
        "Cao et al.", 2007, title="Learning to Rank: From Pairwise Approach to Listwise Approach", name="ListNet"
    )

    def __init__(
        self,
        *,
        pooling: str = "mean",
        normalize: bool = False,
        scale: float = 1.0,
        column: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(pooling=pooling, normalize=normalize, scale=scale, column=column)
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        self.temperature = temperature

    def values(self, student: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """`listwise_kl`."""
        assert teacher is not None
        return listwise_kl(student, teacher, documents_of(batch), temperature=self.temperature)

    def weights(self, batch: Batch) -> Tensor:
        """Queries, ``[B]``."""
        return batch.row_mask


def listwise_kl(student: Tensor, teacher: Tensor, mask: Tensor, *, temperature: float = 1.0) -> Tensor:
    """The divergence of each query, ``[B]``, of scores ``[B, K]``, those of the documents in `mask`."""
    log_q, log_p = (
        (scores / temperature).masked_fill(~mask, torch.finfo(scores.dtype).min).log_softmax(-1)
        for scores in (student, teacher)
    )
    terms = log_p.exp() * torch.where(mask, log_p - log_q, 0)
    return temperature**2 * terms.sum(-1)
