"""Contrastive learning from labels, beside a teacher or without one."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Batch, Paper, Signal

from .ranking import RankingLoss, documents_of, relevance_of


class Contrastive(RankingLoss):
    """Minus the log-probability of the relevant document among a query's documents (InfoNCE), the mean over queries.

    What a nested batch has instead of the task's own loss. Several relevant documents share the target by their
    relevance; queries without any do not count.

    Args:
        pooling, normalize: see `RankingLoss`.
        scale: of the scores, one over the temperature; cosines need 20 or so.
        in_batch_negatives: whether the documents of the micro-batch's other queries are negatives, too. The value then
            depends on how a step is cut into micro-batches and processes; nothing is gathered.

    Paper: van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding", arXiv:1807.03748,
    equation 4, with inner products for scores.
    """

    paper = Paper(
        "van den Oord et al.",
        2018,
        title="Representation Learning with Contrastive Predictive Coding",
        name="InfoNCE",
        arxiv="1807.03748",
    )
    needs_teacher = False
    needs_teacher_rows = False
    teacher_parts = ()

    def __init__(
        self, *, pooling: str = "mean", normalize: bool = False, scale: float = 1.0, in_batch_negatives: bool = False
    ) -> None:
        super().__init__(pooling=pooling, normalize=normalize, scale=scale)
        self.in_batch_negatives = in_batch_negatives

    def weights(self, batch: Batch) -> Tensor:
        """Queries with a relevant document, ``[B]``."""
        return batch.row_mask & (relevance_of(batch) > 0).any(-1)

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """The sum over queries."""
        if not self.in_batch_negatives:
            return super().forward(student, teacher, batch)
        with torch.autocast(batch.row_mask.device.type, enabled=False):
            queries, documents = self.vectors(student, batch)
            scores = self.scale * queries @ documents.flatten(0, 1).T  # [B, B K]
            there = (documents_of(batch) & batch.row_mask[:, None]).flatten().expand_as(scores)
            same_query = torch.eye(len(queries), dtype=torch.bool, device=scores.device)
            relevance = torch.where(same_query[:, :, None], relevance_of(batch), 0).flatten(1)
            return torch.where(self.weights(batch), contrast(scores, relevance, there), 0).sum()

    def values(self, student: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """`contrast`."""
        return contrast(student, relevance_of(batch), documents_of(batch))


def contrast(scores: Tensor, relevance: Tensor, mask: Tensor) -> Tensor:
    """Cross-entropy of each query with its relevant documents, ``[B]``, of scores ``[B, n]``, those in `mask`."""
    log_q = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).log_softmax(-1)
    target = torch.where(mask, relevance.clamp(min=0), 0).to(scores.dtype)
    target = target / target.sum(-1, keepdim=True).clamp(min=1)
    return -(target * torch.where(mask, log_q, 0)).sum(-1)
