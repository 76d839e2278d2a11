"""Margin-MSE against labels alone; beside it pointwise MSE, and both with another origin for each query's scores."""

from __future__ import annotations

from typing import Any

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


def arm(*losses: Any, **options: Any) -> Arm:
    """An arm that trains with these losses and options of `distil_ranking`."""
    return lambda seed: distil_ranking(list(losses), seed=seed, **options)


LABELS = {"learning_rate": 3e-4}


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
    unit="mean over 313 questions",
    better="higher",
    baseline="labels",
    arm="Margin-MSE",
    arms={
        "labels": arm("contrastive", **LABELS),
        # More of the same 200 questions is not better for labels alone.
        "labels, a third of the budget": arm("contrastive", **LABELS, steps=100, batch_size=8),
        "pointwise MSE": pointwise(),
        "Margin-MSE": arm(MARGINS),
        "labels + Margin-MSE": arm("contrastive", MARGINS),
        "pointwise MSE, moved scores": pointwise(disturbed=True),
        "Margin-MSE, moved scores": arm(MARGINS, disturbed=True),
    },
    data=("xquad",),
    reference="the tables that compare losses",
)
