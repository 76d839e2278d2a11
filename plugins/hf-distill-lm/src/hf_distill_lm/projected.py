"""Losses that compare several rows with each other: logits in chunks, and their gradient taken at once.

No logits and no graph of them outlive their chunk, and where ZeRO-3 shards a head it is whole while it is used.

Shape letters: n rows, c rows of a chunk, H hidden width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Rows, SparseRows, as_float32

# (student's logits [c, V], teacher's logits [c, V], which rows of the n) -> a sum
ChunkLoss = Callable[[Tensor, Tensor, slice], Tensor]


def sum_over_chunks(function: ChunkLoss, student: Rows, teacher: Rows | SparseRows, chunks: Sequence[slice]) -> Tensor:
    """The sum of `function` over chunks of rows, differentiable with respect to the student's states and its head.

    Parameters in what follows a head's projection (none of the usual models has any) count as constants.

    Args:
        function: differentiable in its first argument; may be called with no rows.
        student: n rows.
        teacher: the same rows.
        chunks: what to call it with.

    Raises:
        ValueError: the models predict different numbers of columns.
    """
    widths = _width(student), _width(teacher)
    if widths[0] != widths[1]:
        raise ValueError(
            f"The student predicts {widths[0]} columns, the teacher {widths[1]}; this loss compares them column by "
            "column. Use models with heads of one size."
        )
    chunks = chunks or [slice(0, 0)]  # so that the zero is connected to everything, as ever
    heads = [rows.head for rows in (student, teacher) if isinstance(rows, Rows) and rows.head is not None]
    with ExitStack() as stack:
        for head in heads:
            stack.enter_context(head.gathered())
        if student.head is None:
            with torch.autocast(student.tensor.device.type, enabled=False):
                return torch.stack(
                    [
                        function(as_float32(student.tensor[chunk]), _teacher_logits(teacher, chunk), chunk)
                        for chunk in chunks
                    ]
                ).sum()
        parameters = [parameter for parameter in student.head.module.parameters() if parameter.requires_grad]
        constants = function, student, teacher, chunks, torch.is_grad_enabled()
        total: Tensor = _AtOnce.apply(*constants, student.tensor, *parameters)  # type: ignore[no-untyped-call]
        return total


class _AtOnce(torch.autograd.Function):
    """All chunks as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        function: ChunkLoss,
        student: Rows,
        teacher: Rows | SparseRows,
        chunks: Sequence[slice],
        differentiate: bool,
        states: Tensor,
        *parameters: nn.Parameter,
    ) -> Tensor:
        # Leaves in their place: ZeRO-3 shows the graph empty parameters while nobody gathers them.
        leaves = {id(parameter): parameter.detach().requires_grad_(differentiate) for parameter in parameters}
        # In float32 or wider, since chunks add up small contributions.
        gradients = [torch.zeros_like(as_float32(tensor)) for tensor in (states, *parameters)] if differentiate else []
        ctx.dtypes = [tensor.dtype for tensor in (states, *parameters)]
        total = states.new_zeros((), dtype=torch.promote_types(states.dtype, torch.float32))
        with torch.set_grad_enabled(differentiate), torch.autocast(states.device.type, enabled=False):
            for chunk in chunks:
                rows = as_float32(states[chunk].detach()).requires_grad_(differentiate)
                value = function(_project(student, rows, leaves), _teacher_logits(teacher, chunk), chunk)
                total += value.detach()
                if differentiate:
                    found = torch.autograd.grad(
                        value, [rows, *leaves.values()], materialize_grads=True, allow_unused=True
                    )
                    gradients[0][chunk] += found[0]  # chunks may overlap
                    for gradient, part in zip(gradients[1:], found[1:], strict=True):
                        gradient += part
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [(tensor * outer).to(dtype) for tensor, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return None, None, None, None, None, *scaled


@torch.no_grad()
def _teacher_logits(teacher: Rows | SparseRows, chunk: slice) -> Tensor:
    if isinstance(teacher, SparseRows):
        return teacher[chunk].logits()
    rows = teacher.tensor[chunk]
    return as_float32(rows) if teacher.head is None else _project(teacher, rows, {})


def _project(rows: Rows, states: Tensor, leaves: dict[int, Tensor]) -> Tensor:
    """Logits of some states, with other tensors for the parameters of the head."""
    head = rows.head
    assert head is not None
    if head.weight is None:
        named = {name: leaves.get(id(value), value) for name, value in head.module.named_parameters()}
        weight = next(iter(named.values()))
        logits = torch.func.functional_call(head.module, named, (states.to(weight.dtype),))
    else:  # without the module, whose hooks under ZeRO-3 would release what is gathered
        weight = leaves.get(id(head.weight), head.weight)
        bias = None if head.bias is None else leaves.get(id(head.bias), head.bias)
        logits = nn.functional.linear(states.to(weight.dtype), weight, bias)
    return as_float32(head.finish(as_float32(logits)))


def _width(rows: Rows | SparseRows) -> int:
    if isinstance(rows, SparseRows):
        return rows.vocab_size
    return rows.tensor.shape[-1] if rows.head is None else rows.head.vocab_size
