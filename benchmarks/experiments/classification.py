"""What experiments of losses on a classifier's logits share: 45 intents, 10 labelled examples of each.

Weights and temperatures are those of mdistiller, the framework that DKD's authors published, for CIFAR-100.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .classifiers import distil_classifier
from .frame import Arm, Experiment

KD = "labels + KD"


def classifier_arm(*losses: Any) -> Arm:
    """An arm that learns by `losses`."""
    return lambda seed: distil_classifier(list(losses), seed=seed, plugins=["classification"])


LABELS = classifier_arm("task")
PLAIN = ({"name": "task", "weight": 0.1}, {"name": "forward_kl", "weight": 0.9, "temperature": 4.0})


def against_kd(arm: str, *losses: Any, others: Mapping[str, Arm] | None = None, **fields: Any) -> Experiment:
    """The experiment of some losses against labels and forward KL at a temperature of 4.

    Args:
        arm: what to call the losses.
        losses: as the trainer takes them.
        others: further arms.
        fields: of `Experiment`.
    """
    defaults = {
        "package": "hf-distill-classification",
        "evidence": "faithful",
        "metric": "accuracy",
        "unit": "share of 1,350",
        "better": "higher",
        "baseline": KD,
        "data": ("clinc150",),
    }
    arms = {"labels": LABELS, KD: classifier_arm(*PLAIN), arm: classifier_arm(*losses)}
    return Experiment(arm=arm, arms={**arms, **(others or {})}, **{**defaults, **fields})
