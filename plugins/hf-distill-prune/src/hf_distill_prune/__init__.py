"""Students with parts of the teacher left out: heads and columns, words on their way, changes of fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    from hf_distill import DistillationTrainer


@hookimpl
def register_students(register: Callable[..., None]) -> None:
    """Builders, and the transforms by which their students are loaded again."""
    register("ziplm", "hf_distill_prune.ziplm:ziplm")
    register("keep_structures", "hf_distill_prune.structures:keep_structures", kind="transform")
    register("adjustable", "hf_distill_prune.adjustable:adjustable")
    register("eliminate_words", "hf_distill_prune.adjustable:eliminate_words", kind="transform")
    register("lottery_ticket", "hf_distill_prune.sparse:lottery_ticket")
    register("add_differences", "hf_distill_prune.sparse:add_differences")
    register("mask_gradients", "hf_distill_prune.sparse:mask_gradients", kind="transform")


@hookimpl
def training_started(trainer: DistillationTrainer) -> None:
    """Sparse fine-tuning holds parameters by their gradients, which is not enough where weight decay moves them."""
    from .sparse import refuse_weight_decay

    refuse_weight_decay(trainer)
