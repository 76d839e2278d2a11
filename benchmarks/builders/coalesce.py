"""Coalescing stories260k in width, as the beginning of a student that is distilled from it."""

from __future__ import annotations

from experiments.frame import Experiment
from experiments.training import remembered

from . import stories

SHAPE = {"hidden_size": 32, "layers": 5}


@remembered
def measured(builder: str, options: dict[str, int], *, seed: int) -> dict[str, float]:
    """The figures of a student after 60 steps with the teacher's distributions."""
    return stories.distilled(lambda: stories.shrunk(builder, **options), seed=seed)


EXPERIMENT = Experiment(
    method="Multi-Level, coalescing",
    package="hf-distill-weightmaps",
    components=("student coalesce",),
    paper="Zou et al. 2024, arXiv:2404.07999",
    evidence="faithful",
    what="Students of half the width (73,000 parameters), and one of full width with one block of five (78,000), learn "
    "from stories260k by forward KL.",
    needs="A teacher of the same family.",
    expects="nearer to the teacher than with random weights, in as many steps",
    metric="forward_kl",
    unit="nats a token",
    better="lower",
    baseline="random weights",
    arm="coalesce",
    arms={
        "random weights": lambda seed: measured("fresh", {"hidden_size": 32, "seed": seed}, seed=seed),
        "coalesce": lambda seed: measured("coalesce", SHAPE, seed=seed),
        "layer-drop to one block": lambda seed: measured("layer_drop", {"layers": 1}, seed=seed),
    },
    data=("stories260k", "tinystories_sample"),
)
