"""Row losses within a memory budget: heads run on chunks of rows, and no batch of logits ever exists.

For each chunk both heads are projected, the losses and their gradient with respect to the chunk's logits are computed,
and that gradient is folded into those of the hidden states and of the head at once. So every loss, whoever wrote it,
costs the same four matrix products, and memory that depends neither on the number of rows nor on the loss. All losses
share one pass. The losses themselves run on parts of a chunk, small enough that their copies stay in the cache.

Shape letters: n rows, H hidden width, V vocabulary, L losses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..batch.signals import Rows, SparseRows
from ..models.heads import Head, gathered, run_in_first_forward
from .objective import Objective, RowTerm
from .projection import accumulator, make_projection, product_type
from .row_functions import LABELS
from .rowwise import as_float32

__all__ = ["RowResult", "RowTerm", "row_losses", "row_values"]

DEFAULT_MEMORY = 240 * 2**20
_COPIES = 12  # how many copies of its logits a loss may hold at a time
_CACHE = 2**19  # bytes of one such copy that a core of a CPU works on


@dataclass
class RowResult:
    """What one pass over the rows gave; all on the device, and nothing waits for it.

    Attributes:
        total: scaled sum of all terms, connected to the states or logits, the head and the losses' own parameters.
        sums: each term's sum over the rows, unscaled, times the squared temperature, detached.
        teacher_entropy_sum: sum of the first teacher's entropies in nats, at temperature 1; where observed.
        agreement_sum: in how many rows student and first teacher have the same most likely column; where observed.
    """

    total: Tensor
    sums: dict[str, Tensor]
    teacher_entropy_sum: Tensor | None = None
    agreement_sum: Tensor | None = None


def row_losses(
    student: Rows,
    teachers: Mapping[str, Rows | SparseRows],
    terms: Sequence[RowTerm],
    *,
    labels: Tensor | None = None,
    columns: Mapping[str, Tensor] | None = None,
    memory: int = DEFAULT_MEMORY,
    observe: bool = False,
) -> RowResult:
    """Compute `terms` on all rows, and their gradients where autograd is on.

    Args:
        student: selected rows, ``[n, H]`` states with a head or ``[n, V]`` logits.
        teachers: the same rows of each teacher, by name; widths and heads of their own, or sparse.
        terms: the losses.
        labels: ``[n]``, for losses that read them.
        columns: further data of the rows, ``[n]`` each, for losses that read them.
        memory: bytes that chunks may take, beside the gradients of the states and of the head.
        observe: whether to measure teacher entropy and agreement.

    Raises:
        ValueError: a loss reads labels or a column that is not there, or vocabularies differ.
    """
    columns = {**(columns or {}), **({} if labels is None else {LABELS: labels})}
    objective = Objective(student, teachers, terms, columns=list(columns), observe=observe)
    head = [] if student.head is None else student.head.parameters()
    parameters = _trainable([*head, *objective.owned])
    if student.head is None:
        total, sums = _on_logits(objective, columns, parameters)
    else:
        run = _Run(objective, columns, memory, parameters=parameters, differentiate=torch.is_grad_enabled())

        def node(states: Tensor) -> tuple[Tensor, Tensor]:
            # The graph notes the shapes of its inputs: ZeRO-3's shards must be whole when the node is made, too.
            with gathered([*head, *objective.owned]):
                return _Chunked.apply(run, states, *parameters)  # type: ignore[no-any-return, no-untyped-call]

        total, sums = run_in_first_forward(objective.modules, node)(student.tensor)
    named = {term.name: value for term, value in zip(terms, sums.unbind(), strict=False)}
    if objective.observed is None:
        return RowResult(total, named)
    return RowResult(total, named, teacher_entropy_sum=sums[-2], agreement_sum=sums[-1])


def row_values(
    student: Rows,
    teacher: Rows | SparseRows | None,
    functions: Sequence[Callable[..., Tensor]],
    *,
    labels: Tensor | None = None,
    memory: int = DEFAULT_MEMORY,
) -> list[Tensor]:
    """What each function gives for each row, ``[n]``, without gradient and within the same memory as losses.

    Args:
        student: selected rows.
        teacher: the same rows of a teacher, or None for functions of student and labels.
        functions: of the logits of both, ``[m, V]`` each, to ``[m]``.
        labels: ``[n]``, for functions that read them.
        memory: bytes that chunks may take.
    """
    device = student.tensor.device
    values: list[list[Tensor]] = [[torch.zeros(0, device=device)] for _ in functions]

    def recorder(function: Callable[..., Tensor], kept: list[Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(function)
        def record(*arguments: Tensor, **options: Tensor) -> Tensor:
            kept.append(as_float32(function(*arguments, **options)))
            return kept[-1]

        vars(record).pop("on_sparse", None)  # which would go past what is kept here
        return record

    teachers = {} if teacher is None else {"teacher": teacher}
    terms = [
        RowTerm(str(index), recorder(function, kept), 1.0, teachers=tuple(teachers))
        for index, (function, kept) in enumerate(zip(functions, values, strict=True))
    ]
    with torch.no_grad():
        row_losses(student, teachers, terms, labels=labels, memory=memory)
    return [torch.cat(kept) for kept in values]


def _trainable(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return list({id(parameter): parameter for parameter in parameters if parameter.requires_grad}.values())


def _on_logits(
    objective: Objective, columns: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]
) -> tuple[Tensor, Tensor]:
    """The total and the sums for a student that has finished logits, by ordinary autograd."""
    logits = objective.student.tensor
    if len(logits) == 0:  # plugins' losses need not cope with no rows; the zero is connected to everything, as ever
        empty = torch.stack([tensor.sum().to(objective.scales.dtype) * 0 for tensor in (logits, *parameters)])
        return empty.sum(), torch.zeros(objective.num_sums, dtype=objective.scales.dtype, device=logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        teachers: dict[str, Tensor | SparseRows] = {}
        for name, rows in objective.teachers.items():
            if isinstance(rows, SparseRows):
                teachers[name] = rows
            elif rows.head is None:
                teachers[name] = rows.tensor.detach()
            else:
                with torch.no_grad(), rows.head.gathered():
                    teachers[name] = rows.head.module(rows.tensor)
        sums = objective.sums(logits, teachers, columns)
        return (sums[: len(objective.terms)] * objective.scales).sum(), sums.detach()


class _Chunked(torch.autograd.Function):
    """A whole run as one node of the graph: gradients are computed on the way forward, and scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, run: _Run, states: Tensor, *parameters: nn.Parameter) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            sums = run()
        ctx.unit, ctx.gradients = run.unit, [run.state_gradient, *(run.gradients.get(id(p)) for p in parameters)]
        ctx.dtypes = [tensor.dtype for tensor in (states, *parameters)]
        ctx.mark_non_differentiable(sums)
        return (sums[: len(run.objective.terms)] * run.objective.scales).sum(), sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, outer: Tensor, _sums: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("The gradient of this loss was taken already; the first time needs retain_graph=True.")
        factor, gradients = ctx.unit * outer, ctx.gradients
        # Scaled in place, because the head's may be the biggest tensor there is, unless backward will come again.
        multiply = torch.mul if torch._C._autograd._get_current_graph_task_keep_graph() else Tensor.mul_
        if multiply is Tensor.mul_:
            ctx.gradients = None
        scaled = [
            None if gradient is None else multiply(gradient, factor).to(dtype)
            for gradient, dtype in zip(gradients, ctx.dtypes, strict=True)
        ]
        return None, *scaled


class _Run:
    """One pass over the rows of a student with a head.

    Args:
        objective: what to compute.
        columns: data of the rows, ``[n]`` each.
        memory: bytes that chunks may take.
        parameters: what to differentiate with respect to, beside the states where they require it.
        differentiate: whether to compute gradients at all.

    Attributes:
        unit: gradients are in units of this, the largest scale, so that they do not vanish in half precision.
        state_gradient: ``[n, H]``, after the run, where the states require it.
        gradients: those of the parameters by id, after the run.
    """

    def __init__(
        self,
        objective: Objective,
        columns: Mapping[str, Tensor],
        memory: int,
        *,
        parameters: Sequence[nn.Parameter],
        differentiate: bool,
    ) -> None:
        self.objective, self.columns, self.memory = objective, columns, memory
        self.states = objective.student.tensor
        self.parameters = parameters if differentiate else ()
        self.state_gradient = torch.empty_like(self.states) if differentiate and self.states.requires_grad else None
        self.differentiate = self.state_gradient is not None or bool(self.parameters)
        self.unit = objective.scales.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
        self.weights = objective.scales / self.unit
        self.sums = torch.zeros(objective.num_sums, dtype=objective.scales.dtype, device=self.states.device)

    def __call__(self) -> Tensor:
        """Go over all rows; the sums in the order of `Objective.sums`."""
        objective, heads = self.objective, _heads(self.objective)
        with ExitStack() as stack:
            for head in heads.values():
                stack.enter_context(head.gathered())  # one by one: what two share is whole when its second turn comes
            chunk, self.part = _sizes(heads, objective, num_rows=len(self.states), memory=self.memory)
            self.projections = {
                name: make_projection(
                    head,
                    columns=objective.width(name),
                    chunk=chunk,
                    differentiate=self.differentiate and name is None,
                    parameters=self.parameters if name is None else (),
                )
                for name, head in heads.items()
            }
            self.gradients = self.projections[None].gradients
            self.direct = [parameter for parameter in self.parameters if id(parameter) not in self.gradients]
            self.stand_ins = objective.stand_ins()
            self.gradients |= {id(parameter): accumulator(parameter) for parameter in self.direct}
            with torch.autocast(self.states.device.type, enabled=False):
                for rows in _slices(len(self.states), chunk):
                    self._chunk(rows)
        return self.sums

    def _chunk(self, rows: slice) -> None:
        student = self.projections[None]
        logits = student.forward(self.states[rows])
        teachers: dict[str, Tensor | SparseRows] = {}
        for name, teacher in self.objective.teachers.items():
            teacher_rows = teacher[rows] if isinstance(teacher, SparseRows) else teacher.tensor[rows]
            teachers[name] = self.projections[name].forward(teacher_rows) if name in self.projections else teacher_rows  # type: ignore[arg-type]
        columns = {name: values[rows] for name, values in self.columns.items()}
        for part in _slices(len(logits), self.part):
            self._part(
                logits[part],
                {name: teacher[part] for name, teacher in teachers.items()},
                {name: values[part] for name, values in columns.items()},
            )
        if self.differentiate:
            student.fold(logits, rows=None if self.state_gradient is None else self.state_gradient[rows])

    def _part(self, logits: Tensor, teachers: Mapping[str, Tensor | SparseRows], columns: Mapping[str, Tensor]) -> None:
        """Add the sums of some rows, and write the gradient of their logits over the logits."""
        leaf = logits.detach().requires_grad_(self.differentiate)
        with torch.set_grad_enabled(self.differentiate):
            sums = self.objective.sums(leaf, teachers, columns, stand_ins=self.stand_ins)
            total = (sums[: len(self.weights)] * self.weights).sum()
        self.sums += sums.detach()
        if self.differentiate:
            inputs = [leaf, *(self.stand_ins.get(id(parameter), parameter) for parameter in self.direct)]
            gradient, *direct = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
            logits.copy_(gradient)
            for parameter, part in zip(self.direct, direct, strict=True):
                self.gradients[id(parameter)] += part


def _heads(objective: Objective) -> dict[str | None, Head]:
    """The heads that run, the student's under None."""
    rows: list[tuple[str | None, Rows | SparseRows]] = [(None, objective.student), *objective.teachers.items()]
    return {name: side.head for name, side in rows if isinstance(side, Rows) and side.head is not None}


def _slices(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def _sizes(heads: Mapping[str | None, Head], objective: Objective, *, num_rows: int, memory: int) -> tuple[int, int]:
    """How many rows are projected at a time, and on how many of these a loss works at a time."""
    student = heads[None]
    device, dtype = objective.student.tensor.device, product_type(student)
    copy = student.vocab_size * max(4, dtype.itemsize)
    part = max(1, memory // (3 * _COPIES * copy))
    if device.type == "cpu":  # elsewhere few kernels matter more than caches
        part = min(part, torch.get_num_threads() * max(1, _CACHE // copy))
    buffers = sum(head.vocab_size * product_type(head).itemsize for head in heads.values())
    chunk = max((memory - _COPIES * part * copy) // buffers, part)
    num_chunks = max(1, -(-num_rows // chunk))
    return max(1, -(-num_rows // num_chunks)), part
