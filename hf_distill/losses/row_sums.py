"""What batch losses compute from the predictions of single rows, through the engine and within its memory.

    weighted_row_sum(distance, student.rows, teacher.rows, weights=mask)         # vocabularies may differ
    differentiable_log_probs(lambda log_q: (log_q.view(8, -1).sum(1) - target).square().sum(), student.rows, labels)

No logits of all rows ever exist. Shape letters: n rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..batch.signals import Rows, SparseRows
from .divergences import cross_entropy
from .engine import RowTerm, row_losses, row_values
from .row_functions import RowCall

_ONLY = "teacher"


class _Weighted:
    """A row function times the column "weights"."""

    columns: tuple[str, ...] = ("weights",)

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function

    def __call__(self, *arguments: Tensor, weights: Tensor) -> Tensor:
        return self.function(*arguments) * weights


def weighted_row_sum(
    function: Callable[..., Tensor],
    student: Rows,
    teacher: Rows | SparseRows | None = None,
    *,
    weights: Tensor,
    labels: Tensor | None = None,
) -> Tensor:
    """The weighted sum of a function of single rows, a scalar, differentiable with respect to the student.

    Args:
        function: of the logits of student and teacher, ``[m, V]`` each and whole, to ``[m]``; the widths may differ.
            Without a teacher, of the student's logits and the labels.
        student: n rows.
        teacher: as many, which need not be of the same positions or vocabulary.
        weights: ``[n]``, constants.
        labels: ``[n]``, without a teacher.
    """
    teachers = {} if teacher is None else {_ONLY: teacher}
    # The engine keeps gradients in units of the scale, so that small weights do not vanish in half precision.
    scale = torch.nn.functional.pad(weights.abs(), (0, 1)).amax().clamp(min=torch.finfo(weights.dtype).tiny)
    call = RowCall(labels=teacher is None, columns=_Weighted.columns)
    term = RowTerm(
        "rows", _Weighted(function), scale, teachers=tuple(teachers), source="its rows", whole=True, call=call
    )
    return row_losses(student, teachers, [term], labels=labels, columns={"weights": weights / scale}).total


def log_probs_of(rows: Rows, labels: Tensor) -> Tensor:
    """The log-probability of one column of each row, ``[n]`` in float32 or wider, without gradient."""
    return -row_values(rows, None, [cross_entropy], labels=labels)[0]


def differentiable_log_probs(function: Callable[[Tensor], Tensor], student: Rows, labels: Tensor) -> Tensor:
    """A function of the rows' log-probabilities as a whole, differentiable with respect to the student.

    Projects the student's rows twice, first for the log-probabilities, then for their gradients, which the function
    says the weights of; so it needs no more memory than other losses.

    Args:
        function: of the log-probabilities of the labels, ``[n]``, to a scalar; called once.
        student: n rows.
        labels: ``[n]``, each a column.
    """
    with torch.enable_grad():
        log_probs = log_probs_of(student, labels).requires_grad_()
        value = function(log_probs)
        (weights,) = torch.autograd.grad(value, log_probs)
    # minus itself: the value is that of the function, the gradient that of the rows
    linear = -weighted_row_sum(cross_entropy, student, weights=weights, labels=labels)
    return value.detach() + linear - linear.detach()
