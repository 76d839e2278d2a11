"""The 24 compact BERTs of Well-Read Students, as shapes of students with random weights."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_distill import Blueprint, Plugins, shape_only

LAYERS, WIDTHS = (2, 4, 6, 8, 10, 12), (128, 256, 512, 768)
HEAD_WIDTH = 64
NAMES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
SHAPES = {**NAMES, **{f"{layers}/{width}": (layers, width) for layers in LAYERS for width in WIDTHS}}


@shape_only
def miniature(teacher: PreTrainedModel, *, shape: str, seed: int | None = 0) -> Blueprint:
    """A model of the teacher's class and vocabulary in one of 24 shapes: 64 wide heads, inner width 4 times the hidden.

    Paper: Turc et al. 2019, "Well-Read Students Learn Better", arXiv:1908.08962. The students there are
    pre-trained before they are distilled: `hf_distill_progressive.presets:well_read` is the schedule.

    Args:
        teacher: a BERT, or another model with blocks and heads.
        shape: "layers/width" with 2, 4, 6, 8, 10 or 12 layers and a width of 128, 256, 512 or 768; or "tiny" (2/128),
            "mini" (4/256), "small" (4/512), "medium" (8/512), "base" (12/768).
        seed: decides the weights; None draws from the global generators.

    Raises:
        ValueError: an unknown shape; lists those that are known.
    """
    if shape not in SHAPES:
        raise ValueError(
            f"No shape {shape!r}; there are {', '.join(NAMES)}, and layers/width with layers of {LAYERS} and width of "
            f"{WIDTHS}."
        )
    layers, width = SHAPES[shape]
    options = {"layers": layers, "hidden_size": width, "heads": width // HEAD_WIDTH, "intermediate_size": 4 * width}
    fresh: Any = Plugins().students.create("fresh", {**options, "seed": seed})
    blueprint: Blueprint = fresh(teacher)
    return blueprint
