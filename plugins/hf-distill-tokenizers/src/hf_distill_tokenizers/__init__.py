"""Losses for a teacher and a student with different tokenizers. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """One file a loss."""
    register("alm", "hf_distill_tokenizers.alm:ALM")
    register("uld", "hf_distill_tokenizers.uld:ULD")
