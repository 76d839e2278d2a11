"""Students with parts of the teacher left out: heads and columns, words on their way, changes of fine-tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_students(register: Callable[..., None]) -> None:
    """Builders, and the transforms by which their students are loaded again."""
    register("ziplm", "hf_distill_prune.ziplm:ziplm")
    register("keep_structures", "hf_distill_prune.structures:keep_structures", kind="transform")
    register("adjustable", "hf_distill_prune.adjustable:adjustable")
    register("eliminate_words", "hf_distill_prune.adjustable:eliminate_words", kind="transform")
