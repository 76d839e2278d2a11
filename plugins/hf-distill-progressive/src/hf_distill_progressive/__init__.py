"""Losses for self-distillation; schedules for `hf-distill stages` are in `presets`. See README.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

LOSSES = {
    "probability_mse": "probability_mse:probability_mse",
    "label_mse": "label_mse:LabelMSE",
    "multi_exit": "multi_exit:MultiExit",
}


@hookimpl
def register_losses(register: Callable[[str, str], None]) -> None:
    """One file a loss."""
    for name, target in LOSSES.items():
        register(name, f"hf_distill_progressive.{target}")
