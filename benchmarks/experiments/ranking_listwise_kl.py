"""Listwise KL against labels alone."""

from __future__ import annotations

from .frame import Experiment
from .ranking_margin_mse import COLUMN, LABELS, arm

LISTS = {"name": "listwise_kl", **COLUMN}

EXPERIMENT = Experiment(
    method="Listwise KL",
    package="hf-distill-ranking",
    components=("loss listwise_kl",),
    paper="Cao et al. 2007 (ListNet); Ren et al. 2021, arXiv:2110.07367",
    evidence="after the paper's description",
    what="A query's documents are one distribution, by the softmax of their scores; the student's is to be the "
    "cross-encoder's. Documents far down hardly count.",
    needs="Queries with some documents each, without labels, and a cross-encoder's scores: live, cached or a column.",
    expects="better rankings than by labels alone (InfoNCE over the same documents)",
    metric="mrr@10",
    unit="mean over 313 questions",
    better="higher",
    baseline="labels",
    arm="listwise KL",
    arms={
        "labels": arm("contrastive", **LABELS),
        "listwise KL": arm(LISTS),
        "labels + listwise KL": arm("contrastive", LISTS),
    },
    data=("xquad",),
)
