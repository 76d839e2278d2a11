"""Row losses with gradients in closed form: what divergences share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# Log-probabilities below this count as this, so that what a teacher excludes with logits of -inf stays finite. Logits
# of real models come nowhere near it: it changes nothing else.
LOWEST = -1e4

# (q, log q, differentiate) -> values [n], q * dvalues/dq [n, V] or None where no gradient is asked for; q is the
# student's distribution, [n, V]. The formula may overwrite log q, but not q.
StudentFormula = Callable[[Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]
# The same with the teacher's log p, [n, V], after log q; it may overwrite that, too.
Formula = Callable[[Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor | None]]


def as_float32(tensor: Tensor) -> Tensor:
    """`tensor` in the type that losses are computed in: float32, or float64 where given so."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension with a floor, ``[n, V]``."""
    return torch.log_softmax(as_float32(logits), dim=-1).clamp_(min=LOWEST)


class _Rowwise(torch.autograd.Function):
    """Values and gradient of a formula at once, so that nothing but the gradient is kept.

    With w = q * dvalue/dq the chain rule through the softmax is dvalue/dlogits = w - q * sum(w).
    """

    @staticmethod
    def forward(ctx: Any, student_logits: Tensor, formula: StudentFormula) -> Tensor:
        log_q = log_probabilities(student_logits)
        q = log_q.exp()
        values, weighted = formula(q, log_q, ctx.needs_input_grad[0])
        if weighted is not None:
            ctx.save_for_backward(torch.addcmul(weighted, q, weighted.sum(-1, keepdim=True), value=-1))
            ctx.dtype = student_logits.dtype
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * outer[:, None]).to(ctx.dtype), None


def rowwise(student_logits: Tensor, teacher_logits: Tensor, formula: Formula) -> Tensor:
    """Apply `formula` to the distributions of both models; the teacher's logits count as constants.

    Args:
        student_logits: ``[n, V]``, already divided by the temperature, of any floating type.
        teacher_logits: the same of the teacher.
        formula: see `Formula`.

    Returns:
        ``[n]``, float32 (float64 for float64 student logits).
    """
    teacher = teacher_logits.detach()

    def with_teacher(q: Tensor, log_q: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        return formula(q, log_q, log_probabilities(teacher), differentiate)

    return of_student(student_logits, with_teacher)


def of_student(student_logits: Tensor, formula: StudentFormula) -> Tensor:
    """Apply `formula` to the student's distribution alone; ``[n, V]`` logits to ``[n]`` values as `rowwise` gives."""
    values: Tensor = _Rowwise.apply(student_logits, formula)  # type: ignore[no-untyped-call]
    return values
