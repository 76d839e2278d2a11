"""SinKD beside labels and forward KL, on text classification."""

from __future__ import annotations

from typing import Any

from .classifiers import distil_classifier
from .frame import Arm, Experiment

BATCH = 16
# The authors' script for BERT: 0.1 and 0.9, T = 3.5 without the factor T^2, 0.8 times 0.001 times a sum over the batch.
KD = [{"name": "task", "weight": 0.1}, {"name": "forward_kl", "weight": 0.9 / 3.5**2, "temperature": 3.5}]


def arm(*losses: Any) -> Arm:
    """An arm with these losses beside labels and forward KL."""
    return lambda seed: distil_classifier([*KD, *losses], seed=seed, plugins=["lm"], batch_size=BATCH)


EXPERIMENT = Experiment(
    method="SinKD",
    package="hf-distill-lm",
    components=("loss sinkd",),
    paper="Cui et al. 2024, arXiv:2402.17110",
    evidence="faithful",
    what="The student's predictions for a batch are moved to the teacher's at the least cost, and that cost is the "
    "loss. It sees how the examples of a batch lie to each other, which row by row losses do not.",
    needs="A teacher of the same classes or vocabulary.",
    expects="more accuracy than by labels and forward KL",
    metric="accuracy",
    unit="share",
    better="higher",
    baseline="labels + forward KL",
    arm="labels + forward KL + SinKD",
    arms={
        "labels + forward KL": arm(),
        "labels + forward KL + SinKD": arm({"name": "sinkd", "weight": 0.8 * 0.001 * BATCH}),
        "with a weight of 0.8": arm({"name": "sinkd", "weight": 0.8}),
    },
    data=("clinc150",),
)
