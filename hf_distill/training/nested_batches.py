"""Nested batches in a step: which parts the losses read, and what the student predicts of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..batch.signals import Batch, Signal
from ..losses.mixins import NestedBatchMixin
from ..plugins.registry import ErrorContext
from .specs import ActiveLoss


def check_parts(losses: Sequence[ActiveLoss], batch: Batch) -> None:
    """Refuse a batch that the losses cannot read.

    Raises:
        ValueError: a part is missing, or a loss reads flat batches and this one is nested.
    """
    for loss in losses:
        if missing := [name for name in (*loss.student_parts, *loss.teacher_parts) if name not in batch.parts]:
            raise ValueError(
                f"The loss {loss.label!r} reads the part {missing[0]!r} of a nested batch, but the collator made "
                f"{'the parts ' + ', '.join(batch.parts) if batch.parts else 'a flat batch'}. Give the trainer a "
                "collator that makes this part."
            )
        if batch.parts and not loss.student_parts:
            raise ValueError(
                f"The loss {loss.label!r} reads flat batches, but the collator made the parts "
                f"{', '.join(batch.parts)}. Leave the loss out, or give the trainer a collator of flat batches."
            )


def student_parts(losses: Sequence[ActiveLoss]) -> list[str]:
    """The parts that the student is run on, each once."""
    return list(dict.fromkeys(name for loss in losses for name in loss.student_parts))


def teacher_parts(losses: Sequence[ActiveLoss], teacher: str) -> list[str]:
    """The parts that a teacher is run on, each once."""
    return list(dict.fromkeys(part for loss in losses if teacher in loss.teachers for part in loss.teacher_parts))


def predictions(losses: Sequence[ActiveLoss], student: Signal, batch: Batch) -> dict[str, Tensor]:
    """Outputs of a nested batch: what the first loss that can makes of the student's signals about its parts.

    Raises:
        ValueError: none of the losses makes predictions.
    """
    for loss in losses:
        if isinstance(loss.function, NestedBatchMixin):
            with ErrorContext(loss.source):
                if (logits := loss.function.predictions(student, batch)) is not None:
                    return {"logits": logits}
    raise ValueError(
        "compute_metrics needs predictions, but none of the losses makes some of a nested batch: "
        f"{', '.join(loss.label for loss in losses)}. Set prediction_loss_only=True, or define "
        "`predictions` in one of them."
    )
