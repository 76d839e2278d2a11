"""The row losses of a run as one function of raw logits: head's tail, shared columns, temperature, labels, sums.

Shape letters: m rows, V vocabulary, L losses.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..heads import without_hooks
from ..registry import attribute_errors
from ..signals import Rows
from .rowwise import at_least_float32, log_probabilities


@dataclass(frozen=True)
class RowTerm:
    """One row loss as the engine sees it.

    Attributes:
        name: unique among the terms.
        function: ``(student_logits, teacher_logits)``, both ``[n, V]``, to ``[n]``; may have a third parameter
            ``labels``; may be a module with parameters. Where `teacher` is None, ``(student_logits, labels)``.
        scale: derivative of the total with respect to the sum of this loss.
        temperature: logits are divided by it, values multiplied by its square.
        teacher: whom it listens to.
        source: where it comes from, for errors.
    """

    name: str
    function: Callable[..., Tensor]
    scale: Tensor | float
    temperature: float = 1.0
    teacher: str | None = "teacher"
    source: str = "the training script"

    @property
    def reads_labels(self) -> bool:
        """Whether the function wants the rows' targets."""
        function = self.function.forward if isinstance(self.function, nn.Module) else self.function
        return self.teacher is None or "labels" in inspect.signature(function).parameters


class Objective:
    """What is computed from the logits of student and teachers.

    Args:
        student: the rows that the logits are of.
        teachers: the same of each teacher.
        terms: the losses.
        has_labels: whether there are targets.
        observe: whether to measure the first teacher's entropy and the agreement with it.

    Attributes:
        columns: how many leading columns each term reads.
        scales: ``[L]``, derivative of the total with respect to each term's sum.
        owned: parameters of the losses.

    Raises:
        ValueError: a loss reads labels and there are none, or vocabularies differ.
    """

    def __init__(
        self, student: Rows, teachers: Mapping[str, Rows], terms: Sequence[RowTerm], *, has_labels: bool, observe: bool
    ) -> None:
        self.student, self.teachers, self.terms = student, teachers, terms
        shared = {name: _shared_columns(student, rows, name) for name, rows in teachers.items()}
        own = student.vocab_size or _width(student)
        self.columns = [own if term.teacher is None else shared[term.teacher] for term in terms]
        self.observed = next(iter(shared.items())) if observe and shared else None
        self.labelled = [term.reads_labels for term in terms]
        if any(self.labelled) and not has_labels:
            name = terms[self.labelled.index(True)].name
            raise ValueError(f"The loss {name!r} reads labels, but the batch has none. Add labels, or leave it out.")
        like = at_least_float32(student.tensor.new_empty(0))
        self.scales = torch.stack([torch.as_tensor(term.scale, dtype=like.dtype, device=like.device) for term in terms])
        modules = [term.function for term in terms if isinstance(term.function, nn.Module)]
        self.owned = [parameter for module in modules for parameter in module.parameters()]

    def width(self, name: str | None) -> int:
        """How many leading columns the terms read of the teacher `name`, or of the student (None)."""
        readers = [(term.teacher, columns) for term, columns in zip(self.terms, self.columns, strict=True)]
        if self.observed is not None:
            readers.append(self.observed)
        return max((columns for teacher, columns in readers if name in (None, teacher)), default=1)

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
        teacher_logits: Mapping[str, Tensor],
        labels: Tensor | None,
        *,
        stand_ins: Mapping[int, Tensor] | None = None,
    ) -> Tensor:
        """Each term's sum over the rows, then (detached) the observed teacher's entropy and agreement, ``[L (+ 2)]``.

        Args:
            student_logits: ``[m, V]`` as the student's projection gave them; finished ones where it has no head.
            teacher_logits: the same of each teacher.
            labels: ``[m]`` or None.
            stand_ins: what `stand_ins` gave, where the gradient is taken at once.
        """
        student = _finish(student_logits, self.student)
        teachers = {name: _finish(logits, self.teachers[name]) for name, logits in teacher_logits.items()}
        sums = []
        for term, columns, labelled in zip(self.terms, self.columns, self.labelled, strict=True):
            arguments: list[Any] = [student] if term.teacher is None else [student, teachers[term.teacher]]
            arguments = [_leading(logits, columns) for logits in arguments]
            if term.temperature != 1.0:
                arguments = [logits / term.temperature for logits in arguments]
            options: dict[str, Any] = {"labels": labels} if labelled and term.teacher is not None else {}
            if term.teacher is None:
                arguments.append(labels)
            with attribute_errors(term.source):
                if stand_ins and isinstance(term.function, nn.Module):
                    values = _call_with(term.function, stand_ins, arguments, options)
                else:
                    values = term.function(*arguments, **options)
            sums.append(at_least_float32(values).sum() * term.temperature**2)
        if self.observed is not None:
            name, columns = self.observed
            sums += _observe(_leading(student.detach(), columns), _leading(teachers[name], columns))
        return torch.stack([value.to(self.scales.dtype) for value in sums])


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
    logits = at_least_float32(logits)
    return logits if rows.head is None else at_least_float32(rows.head.finish(logits))


def _leading(logits: Tensor, columns: int) -> Tensor:
    return logits if logits.shape[-1] == columns else logits[:, :columns]


def _observe(student: Tensor, teacher: Tensor) -> list[Tensor]:
    log_p = log_probabilities(teacher)
    entropy = -torch.linalg.vecdot(log_p.exp(), log_p).sum()
    agreement = (student.argmax(-1) == teacher.argmax(-1)).sum()
    return [entropy, agreement]


def _width(rows: Rows) -> int:
    return rows.tensor.shape[-1] if rows.head is None else rows.head.vocab_size


def _shared_columns(student: Rows, teacher: Rows, name: str) -> int:
    """How many leading columns both sides have in common."""
    widths = _width(student), _width(teacher)
    given = [rows.vocab_size for rows in (student, teacher) if rows.vocab_size is not None]
    if not given and widths[0] != widths[1]:
        raise ValueError(
            f"The student predicts {widths[0]} columns, the teacher {name!r} {widths[1]}. Where the first ones mean "
            "the same and the rest is padding, say how many count (vocab_size); others' logits cannot be compared."
        )
    return min(*given, *widths)
