"""The row losses of a run as one function of raw logits: head's tail, shared columns, temperature, data columns, sums.

Shape letters: m rows, V vocabulary, L losses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..batch.signals import Rows, SparseRows
from ..models.heads import without_hooks
from ..plugins.registry import ErrorContext
from .row_functions import LABELS, TEMPERATURE, RowCall
from .rowwise import as_float32, log_probabilities


@dataclass(frozen=True)
class RowTerm:
    """One row loss as the engine sees it.

    Attributes:
        name: unique among the terms.
        function: ``(student_logits, *teacher_logits)``, all ``[n, V]``, to ``[n]``; may have parameters ``labels`` and
            ``temperature``; may be a `RowLoss` with parameters, and with columns that come by keyword. Without a
            teacher, ``(student_logits, labels)``.
        scale: derivative of the total with respect to the sum of this loss.
        temperature: logits are divided by it, values multiplied by its square.
        teachers: whom it listens to.
        source: where it comes from, for errors.
        whole: whether each model's columns all count, as they mean different things anyway, rather than the leading
            ones that the models share.
        call: what the function takes; read from its signature where it is not given.
    """

    name: str
    function: Callable[..., Tensor]
    scale: Tensor | float
    temperature: float = 1.0
    teachers: tuple[str, ...] = ("teacher",)
    source: str = "the training script"
    whole: bool = False
    call: RowCall | None = None

    def __post_init__(self) -> None:
        if self.call is None:
            object.__setattr__(self, "call", RowCall.of(self.function, num_teachers=len(self.teachers)))

    @property
    def reads(self) -> tuple[str, ...]:
        """What it takes by keyword: the rows' targets, where the function names them, and its columns."""
        assert self.call is not None
        return self.call.reads

    @property
    def settings(self) -> dict[str, float]:
        """What it takes by keyword beside data: the temperature, where the function names it and it is not bound."""
        assert self.call is not None
        return {TEMPERATURE: self.temperature} if self.call.temperature else {}

    @property
    def on_sparse(self) -> Callable[[Tensor, SparseRows], Tensor] | None:
        """The loss on a single sparse teacher, where it has a way that does not write the whole distribution out."""
        assert self.call is not None
        return self.call.on_sparse


class Objective:
    """What is computed from the logits of student and teachers.

    Args:
        student: the rows that the logits are of.
        teachers: the same of each teacher.
        terms: the losses.
        columns: names of the data columns that there are a value of for each row, labels among them.
        observe: whether to measure the first teacher's entropy and the agreement with it.

    Attributes:
        widths: how many leading columns of the logits each term reads, by teacher; the student's under None.
        scales: ``[L]``, derivative of the total with respect to each term's sum.
        modules: the losses that are modules.
        owned: their parameters.

    Raises:
        ValueError: a loss reads a column that is not there, or vocabularies differ.
    """

    def __init__(
        self,
        student: Rows,
        teachers: Mapping[str, Rows | SparseRows],
        terms: Sequence[RowTerm],
        *,
        columns: Sequence[str],
        observe: bool,
    ) -> None:
        self.student, self.teachers, self.terms = student, teachers, terms
        compared = {name for term in terms if not term.whole for name in term.teachers}
        shared = {name: _shared_columns(student, teachers[name], name) for name in teachers if name in compared}
        self.widths = [self._widths_of(term, shared) for term in terms]
        self.observed = next(iter(shared.items())) if observe and shared else None
        self.reads = [term.reads for term in terms]
        self.settings = [term.settings for term in terms]
        for term, names in zip(terms, self.reads, strict=True):
            if missing := [name for name in names if name not in columns]:
                raise ValueError(
                    f"The loss {term.name!r} reads {missing[0]}, but the batch has none. Add such a column to the "
                    "data, or leave the loss out."
                )
        like = as_float32(student.tensor.new_empty(0))
        self.scales = torch.stack([torch.as_tensor(term.scale, dtype=like.dtype, device=like.device) for term in terms])
        self.modules = [term.function for term in terms if isinstance(term.function, nn.Module)]
        self.owned = [parameter for module in self.modules for parameter in module.parameters()]

    def _widths_of(self, term: RowTerm, shared: Mapping[str, int]) -> dict[str | None, int]:
        student_width = self.student.vocab_size or _width(self.student)
        if term.whole:
            return {None: student_width, **{name: _width(self.teachers[name]) for name in term.teachers}}
        return dict.fromkeys(
            (None, *term.teachers), min((shared[name] for name in term.teachers), default=student_width)
        )

    def width(self, name: str | None) -> int:
        """How many leading columns the terms read of the teacher `name`, or of the student (None)."""
        observed = [] if self.observed is None else [dict.fromkeys((None, self.observed[0]), self.observed[1])]
        return max((widths[name] for widths in (*self.widths, *observed) if name in widths), default=1)

    @property
    def num_sums(self) -> int:
        """How many figures `sums` gives."""
        return len(self.terms) + 2 * (self.observed is not None)

    def stand_ins(self) -> dict[int, Tensor]:
        """Leaves in place of the losses' parameters, by id, to differentiate with respect to at once.

        Under ZeRO-3 the graph takes a parameter for the empty tensor that it is while nobody gathers it.
        """
        return {id(parameter): parameter.detach().requires_grad_(parameter.requires_grad) for parameter in self.owned}

    def sums(
        self,
        student_logits: Tensor,
        teacher_logits: Mapping[str, Tensor | SparseRows],
        columns: Mapping[str, Tensor],
        *,
        stand_ins: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Each term's sum over the rows, then (detached) the observed teacher's entropy and agreement, ``[L (+ 2)]``.

        Args:
            student_logits: ``[m, V]`` as the student's projection gave them; finished ones where it has no head.
            teacher_logits: the same of each teacher; sparse rows of those that are.
            columns: the rows' data, ``[m]`` each, labels among them.
            stand_ins: what `stand_ins` gave, where the gradient is taken at once.
        """
        student = _finish(student_logits, self.student)
        teachers = {name: self._finish_teacher(name, logits) for name, logits in teacher_logits.items()}
        sums = []
        for term, widths, reads, settings in zip(self.terms, self.widths, self.reads, self.settings, strict=True):
            function = term.function
            arguments: list[Any] = [_leading(student, widths[None], term.temperature)]
            first = teachers[term.teachers[0]] if term.teachers else None
            if isinstance(first, SparseRows) and term.on_sparse is not None:
                function = term.on_sparse
                arguments.append(first.conditioned(columns=widths[term.teachers[0]], temperature=term.temperature))
            else:
                arguments += [_leading(teachers[name], widths[name], term.temperature) for name in term.teachers]
            options: dict[str, Any] = {name: columns[name] for name in reads} | settings
            if not term.teachers:
                arguments.append(options.pop(LABELS))
            with ErrorContext(term.source):
                if stand_ins and isinstance(function, nn.Module):
                    values = _call_with(function, stand_ins, arguments, options)
                else:
                    values = function(*arguments, **options)
            sums.append(as_float32(values).sum() * term.temperature**2)
        if self.observed is not None:
            name, width = self.observed
            entropy, best = _entropy_and_best(teachers[name], width)
            sums += [entropy.sum(), (_leading(student.detach(), width).argmax(-1) == best).sum()]
        return torch.stack([value.to(self.scales.dtype) for value in sums])

    def _finish_teacher(self, name: str, logits: Tensor | SparseRows) -> Tensor | SparseRows:
        if isinstance(logits, SparseRows):
            return logits
        rows = self.teachers[name]
        assert isinstance(rows, Rows)
        return _finish(logits, rows)


def _call_with(
    module: nn.Module, stand_ins: Mapping[int, Tensor], arguments: list[Any], options: Mapping[str, Any]
) -> Tensor:
    """Call a loss with other tensors for its parameters."""
    named = {name: stand_ins[id(parameter)] for name, parameter in module.named_parameters()}
    with without_hooks(module):
        values: Tensor = torch.func.functional_call(module, named, tuple(arguments), dict(options))
    return values


def _finish(logits: Tensor, rows: Rows) -> Tensor:
    """Logits as the model itself gives them, in the type that losses are computed in."""
    logits = as_float32(logits)
    return logits if rows.head is None else as_float32(rows.head.finish(logits))


def _leading(logits: Tensor | SparseRows, width: int, temperature: float = 1.0) -> Tensor:
    """The first columns, divided by the temperature; those of sparse rows written out."""
    if isinstance(logits, SparseRows):
        return logits.conditioned(columns=width, temperature=temperature).logits()
    logits = logits if logits.shape[-1] == width else logits[:, :width]
    return logits if temperature == 1.0 else logits / temperature


def _entropy_and_best(teacher: Tensor | SparseRows, width: int) -> tuple[Tensor, Tensor]:
    """A teacher's entropy in nats and most likely column, both ``[m]``."""
    if isinstance(teacher, SparseRows) and teacher.entropy is not None:
        return teacher.entropy, teacher.ids.gather(-1, teacher.log_probs.argmax(-1, keepdim=True)).squeeze(-1)
    log_p = log_probabilities(_leading(teacher, width))
    return -torch.linalg.vecdot(log_p.exp(), log_p), log_p.argmax(-1)


def _width(rows: Rows | SparseRows) -> int:
    if isinstance(rows, SparseRows):
        return rows.vocab_size
    return rows.tensor.shape[-1] if rows.head is None else rows.head.vocab_size


def _shared_columns(student: Rows, teacher: Rows | SparseRows, name: str) -> int:
    """How many leading columns both sides have in common."""
    widths = _width(student), _width(teacher)
    given = [rows.vocab_size for rows in (student, teacher) if isinstance(rows, Rows) and rows.vocab_size is not None]
    if not given and widths[0] != widths[1]:
        raise ValueError(
            f"The student predicts {widths[0]} columns, the teacher {name!r} {widths[1]}. Where the first ones mean "
            "the same and the rest is padding, say how many count (vocab_size); others' logits cannot be compared."
        )
    return min(*given, *widths)
