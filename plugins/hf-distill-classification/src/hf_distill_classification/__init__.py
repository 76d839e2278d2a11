"""Losses for classifiers, and a student with several experts for long-tailed data. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

LOSSES = {
    "dkd": "dkd:dkd",
    "dist": "dist:DIST",
    "standardized_kl": "standardized_kl:standardized_kl",
    "binary_kl": "binary_kl:binary_kl",
    "dual_head": "dual_head:DualHead",
    "ferkd": "ferkd:ferkd",
    "deit_lt": "deit_lt:DeiTLT",
    "mdcs": "mdcs:MDCS",
}


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """One file a loss."""
    for name, target in LOSSES.items():
        register(name, f"hf_distill_classification.{target}")


@hookimpl
def register_students(register: Callable[..., None]) -> None:
    """The student of MDCS."""
    register("experts", "hf_distill_classification.experts:experts", kind="transform")
