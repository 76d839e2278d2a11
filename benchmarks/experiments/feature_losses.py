"""What experiments with losses on features share: one of them beside the labels, against the labels alone.

Weights are those of the benchmark of CRD (Tian et al. 2020) where it has the loss. Vectors of examples are those of the
class token, which the classifiers read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .classifiers import distil_classifier
from .frame import Arm, Experiment

LABELS = "labels"


def classifier_arm(*losses: Any) -> Arm:
    """An arm that learns by the labels and by `losses`."""
    return lambda seed: distil_classifier(["task", *losses], seed=seed, plugins=["features"])


def beside_labels(
    arm: str, losses: Sequence[Any], *, others: Mapping[str, Arm] | None = None, **fields: Any
) -> Experiment:
    """The experiment of some losses beside the labels.

    Args:
        arm: what to call the losses.
        losses: as the trainer takes them.
        others: further arms.
        fields: of `Experiment`.
    """
    name = f"{LABELS} + {arm}"
    arms = {
        LABELS: classifier_arm(),
        name: classifier_arm(*losses),
        f"{LABELS} + forward KL": classifier_arm("forward_kl"),
    }
    defaults = {
        "package": "hf-distill-features",
        "evidence": "faithful",
        "needs": "A teacher model whose features are at hand; widths may differ.",
        "expects": "more accuracy with few labels than by the labels alone",
        "metric": "accuracy",
        "unit": "share",
        "better": "higher",
        "baseline": LABELS,
        "data": ("clinc150",),
    }
    return Experiment(arm=name, arms={**arms, **(others or {})}, **{**defaults, **fields})
