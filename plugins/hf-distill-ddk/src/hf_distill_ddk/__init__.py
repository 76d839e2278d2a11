"""DDK: Distilling Domain Knowledge for Efficient Large Language Models (Liu et al. 2024, arXiv:2407.16154)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_selectors(register: Callable[[str, str], None]) -> None:
    """The domain mixture that follows the student's lag."""
    register("ddk", "hf_distill_ddk.selector:DDKSelector")
