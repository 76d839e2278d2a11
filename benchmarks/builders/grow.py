"""bert2BERT's growth: a big model that begins where a small one ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experiments.frame import Experiment
from experiments.language_models import measure_lm
from experiments.training import remembered

from . import stories

STEPS = 120
FIRST = STEPS // 8  # 5 of 40 epochs


@remembered
def trained(growth: Mapping[str, Any] | None, *, seed: int, in_stages: bool = False) -> dict[str, float]:
    """The figures of a big model after 120 steps of text, and as it began: grown, or with random weights."""
    model = stories.new_model(stories.BIG, seed=seed) if growth is None else stories.grown(seed, **growth)
    before = measure_lm(model)["cross_entropy"]
    if in_stages:
        losses = ["task", {"name": "sub_models", "block": 1, "seed": seed}]
        stories.fit(model, FIRST, seed=seed, losses=losses, plugins=["weightmaps"])
    stories.fit(model, STEPS - FIRST if in_stages else STEPS, seed=seed)
    return {**measure_lm(model), "cross_entropy_before": before}


ARMS = {
    "random weights": lambda seed: trained(None, seed=seed),
    "grow": lambda seed: trained({}, seed=seed),
    "grow, advanced": lambda seed: trained({"mode": "aki"}, seed=seed),
    "grow, advanced, two stages": lambda seed: trained({"mode": "aki"}, seed=seed, in_stages=True),
}

EXPERIMENT = Experiment(
    method="bert2BERT, growth",
    package="hf-distill-weightmaps",
    components=("student grow",),
    paper="Chen et al. 2022, arXiv:2110.07143",
    evidence="after the paper's description",
    what="A model of 2 blocks and width 48 that has read 300 steps of text is grown to 4 blocks and width 96, and "
    f"reads {STEPS} more. Layer-drop does not apply: it makes no student that is bigger.",
    needs="A small model of the same family and vocabulary.",
    expects="lower cross-entropy of held-out text than with random weights, in as many steps",
    metric="cross_entropy",
    unit="nats a token",
    better="lower",
    baseline="random weights",
    arm="grow",
    arms=ARMS,
    data=("stories260k", "tinystories_sample"),
)
