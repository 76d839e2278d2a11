"""A student of every r-th block of the teacher, the last one of each r."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedModel

from hf_distill import Blueprint, Plugins, num_blocks, shape_only


@shape_only
def layer_stride(teacher: PreTrainedModel, *, stride: int = 2) -> Blueprint:
    """The blocks whose number l has l mod `stride` = `stride` - 1; everything else is copied.

    Paper: Ansell et al. 2023, "Distilling Efficient Language-Specific Models for Cross-Lingual Transfer" (BiStil),
    arXiv:2306.01709, which halves the depth. The built-in `layer_drop` with ``strategy="last_of_block"`` takes the same
    blocks where `stride` divides their number. For any family.

    Args:
        teacher: a model with one stack of blocks.
        stride: how many of the teacher's blocks one stands for.

    Raises:
        ValueError: a stride below 1, or beyond the number of blocks.
    """
    count = num_blocks(teacher)
    if not 1 <= stride <= count:
        raise ValueError(f"stride is {stride}; the teacher has {count} blocks, so 1 to {count} are possible.")
    drop: Any = Plugins().students.create("layer_drop", {"layers": list(range(stride - 1, count, stride))})
    blueprint: Blueprint = drop(teacher)
    return blueprint
