"""Margin-MSE against labels alone; pointwise MSE and RankNet beside it, and teachers with an origin for each query."""

from __future__ import annotations

from typing import Any

import torch
from hf_distill_ranking.margin_mse import MarginMSE
from hf_distill_ranking.ranking import RankingLoss, documents_of
from torch import Tensor

from hf_distill import Batch

from .frame import Arm, Experiment
from .ranking import distil_ranking

COLUMN = {"column": "teacher_scores"}


class PointwiseMSE(RankingLoss):
    """The squared difference of the scores themselves."""

    def values(self, student: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """``[B, K]``."""
        assert teacher is not None
        return (student - teacher).square()

    def weights(self, batch: Batch) -> Tensor:
        """Documents."""
        return documents_of(batch) & batch.row_mask[:, None]


class RankNet(MarginMSE):
    """Minus the log-probability that the relevant document is ahead of the other one, by labels alone."""

    needs_teacher = False
    needs_teacher_rows = False
    teacher_parts = ()

    def values(self, student: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """``[B, K, K]``."""
        return -torch.nn.functional.logsigmoid(student[:, :, None] - student[:, None, :])


def arm(*losses: Any, disturbed: bool = False) -> Arm:
    """An arm that trains with these losses."""
    return lambda seed: distil_ranking(list(losses), seed=seed, disturbed=disturbed)


def pointwise(**options: Any) -> Arm:
    """An arm of pointwise MSE."""
    return lambda seed: arm({"name": "pointwise_mse", "function": PointwiseMSE(**COLUMN)}, **options)(seed)


MARGINS = {"name": "margin_mse", **COLUMN}

EXPERIMENT = Experiment(
    method="Margin-MSE",
    package="hf-distill-ranking",
    components=("loss margin_mse", "loss contrastive"),
    paper="Hofstaetter et al. 2020, arXiv:2010.02666",
    evidence="faithful",
    what="A bi-encoder learns by how much a cross-encoder puts the relevant document before another one, for each pair "
    "of a query's documents. The origin of a query's scores, which means nothing, is not learnt.",
    needs="Queries with a relevant document and others, and a cross-encoder's scores: live, from a cache, or a column.",
    expects="better rankings than by labels alone (InfoNCE over the same documents), and than by pointwise MSE",
    metric="mrr@10",
    unit="mean over 391 questions",
    better="higher",
    baseline="labels",
    arm="Margin-MSE",
    arms={
        "labels": arm("contrastive"),
        "labels, RankNet": lambda seed: arm({"name": "ranknet", "function": RankNet()})(seed),
        "pointwise MSE": pointwise(),
        "Margin-MSE": arm(MARGINS),
        "labels + Margin-MSE": arm("contrastive", MARGINS),
        "pointwise MSE, moved scores": pointwise(disturbed=True),
        "Margin-MSE, moved scores": arm(MARGINS, disturbed=True),
    },
    data=("xquad",),
    reference="the tables that compare losses",
)
