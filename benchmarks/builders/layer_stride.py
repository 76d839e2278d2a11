"""Every other block of stories260k, as the beginning of a student that is distilled from it."""

from __future__ import annotations

import dataclasses

from . import coalesce
from .coalesce import measured

EXPERIMENT = dataclasses.replace(
    coalesce.EXPERIMENT,
    method="BiStil, layer stride",
    components=("student layer_stride",),
    paper="Ansell et al. 2023, arXiv:2306.01709",
    what="Students of 2 of the teacher's 5 blocks learn from stories260k by forward KL: blocks 1 and 3 (stride 2), "
    "blocks 0 and 4 (layer-drop), or none of its weights.",
    arm="layer stride",
    arms={
        "random weights": lambda seed: measured("fresh", {"layers": 2, "seed": seed}, seed=seed),
        "layer stride": lambda seed: measured("layer_stride", {"stride": 2}, seed=seed),
        "layer-drop": lambda seed: measured("layer_drop", {"layers": 2}, seed=seed),
    },
)
