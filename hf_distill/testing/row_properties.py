"""The properties of a row loss. Each check fails with a message, or does nothing.

Shape letters: n rows, H width of the states, V columns of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch.signals import IGNORE_INDEX, Rows, SparseRows
from ..losses.engine import RowResult, RowTerm, row_losses
from ..losses.row_functions import LABELS, RowCall
from ..models.heads import Head
from ..teachers.local import output_width
from .data import tiny_tokenizer
from .finite_differences import check_gradients
from .no_values import waiting_fails, without_values
from .subject import TEMPERATURE, Subject
from .verdicts import gradients_of, require, require_finite, require_named_error, require_near

WIDTH = 12
TEMPERATURES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Case:
    """A row loss, ready to run, and rows to run it on.

    Attributes:
        term: the loss as the engine takes it.
        student: logits, ``[n, V]``.
        teachers: the same of each teacher.
        columns: what the loss reads beside the logits, ``[n]`` each.
    """

    term: RowTerm
    student: Tensor
    teachers: tuple[Tensor, ...]
    columns: Mapping[str, Tensor]

    @classmethod
    def of(
        cls, subject: Subject, *, num_rows: int = 7, dtype: torch.dtype = torch.float32, spread: float = 3.0
    ) -> Case:
        """Random logits of `spread`, the same in all types but for rounding."""
        student, teachers = subject.models()
        function = subject.make()
        width = output_width(student)
        assert width is not None, "the tiny models have logits"
        if isinstance(function, nn.Module):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                function.setup(student, teachers[0], tiny_tokenizer())  # type: ignore[operator]
            if dtype == torch.float64:
                function.double()
        generator = torch.Generator().manual_seed(0)
        columns = {LABELS: torch.randint(0, width, (num_rows,), generator=generator)}
        for name, values in subject.columns.items():
            columns[name] = torch.as_tensor(values)[torch.arange(num_rows) % len(values)]
        student_logits, *teacher_logits = [
            (torch.randn(num_rows, width, generator=generator, dtype=torch.float64) * spread).to(dtype)
            for _ in range(1 + subject.num_teachers)
        ]
        names = tuple(map(str, range(subject.num_teachers)))
        term = RowTerm(subject.name, function, 1.0, teachers=names, source=subject.source)
        return cls(term, student_logits, tuple(teacher_logits), {name: columns[name] for name in term.reads})

    def values(self, student: Tensor | None = None, teachers: Sequence[Tensor] | None = None) -> Tensor:
        """The loss itself on logits, ``[n]``."""
        student = self.student if student is None else student
        teachers = self.teachers if teachers is None else teachers
        values: Tensor = self.term.function(student, *teachers, **self.columns, **self.term.settings)
        require(values.shape == (len(student),), f"{len(student)} rows gave values of shape {tuple(values.shape)}.")
        return values

    def at(self, temperature: float) -> Case:
        """The same with logits divided by a temperature."""
        teachers = tuple(teacher / temperature for teacher in self.teachers)
        term = replace(self.term, temperature=temperature)
        return replace(self, term=term, student=self.student / temperature, teachers=teachers)

    @property
    def own(self) -> list[nn.Parameter]:
        """The loss's own parameters."""
        function = self.term.function
        return list(function.parameters()) if isinstance(function, nn.Module) else []

    def engine(
        self,
        student: Rows,
        temperature: float = 1.0,
        *,
        teachers: Sequence[Rows | SparseRows] | None = None,
        memory: int = 2**20,
    ) -> RowResult:
        """The engine with this loss alone."""
        term = replace(self.term, temperature=temperature)
        rows = [Rows(logits=logits) for logits in self.teachers] if teachers is None else teachers
        named = dict(zip(term.teachers, rows, strict=True))
        return row_losses(student, named, [term], columns=self.columns, memory=memory)

    def on_logits(self, temperature: float = 1.0, **options: Any) -> tuple[RowResult, tuple[Tensor, ...]]:
        """The engine on finished logits, and the gradients of logits and own parameters."""
        logits = self.student.clone().requires_grad_()
        result = self.engine(Rows(logits=logits), temperature, **options)
        return result, gradients_of(result.total, [logits, *self.own])


def reference_value(subject: Subject) -> None:
    """Another formula than the published one, or a temperature that changes more than it should."""
    assert subject.reference is not None
    for dtype, tolerance in ((torch.float64, 1e-5), (torch.float32, 1e-4)):
        case = Case.of(subject, dtype=dtype)
        for temperature in TEMPERATURES:
            scaled = case.at(temperature)
            logits = [tensor.double().numpy() for tensor in (scaled.student, *scaled.teachers)]
            columns = {name: values.numpy() for name, values in case.columns.items()}
            reference = subject.reference(*logits, **columns, **scaled.term.settings)
            expected = torch.as_tensor(reference, dtype=torch.float64)
            found = scaled.values().detach()
            require_near(found, expected, tolerance, f"values in {dtype} at temperature {temperature:g}")
            total = case.on_logits(temperature)[0].sums[subject.name]
            require_near(total, expected.sum() * temperature**2, tolerance, f"sum at temperature {temperature:g}")


def finite_difference_gradient(subject: Subject) -> None:
    """A gradient that is not the derivative of the value, at temperatures 1, 2 and 4."""
    case = Case.of(subject, dtype=torch.float64, num_rows=3)
    head = _head(case.student, dtype=torch.float64)
    states = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for temperature in TEMPERATURES:

        def value(temperature: float = temperature) -> Tensor:
            moved = replace(case, student=head.module(states)).at(temperature)
            return moved.values().sum() * temperature**2

        leaves = [states.requires_grad_(), *head.parameters(), *case.own]
        total = case.engine(Rows(states=states, head=head), temperature).total
        check_gradients(value, leaves, gradients_of(total, leaves), what=f"at temperature {temperature:g}")


def zero_at_equality(subject: Subject) -> None:
    """A student that says what the teacher says and is pushed away all the same."""
    case = Case.of(subject, spread=2.0)
    other, other_gradients = case.on_logits(TEMPERATURE)
    result, gradients = replace(case, teachers=(case.student.clone(),) * subject.num_teachers).on_logits(TEMPERATURE)
    value, size = result.total.item(), abs(other.total.item())
    require(abs(value) <= 1e-5 * size + 1e-6, f"the value is {value:.3g} ({size:.3g} for another teacher).")
    largest, size = gradients[0].abs().max().item(), other_gradients[0].abs().max().item()
    require(largest <= 1e-4 * size + 1e-6, f"the gradient is {largest:.3g} ({size:.3g} for another teacher).")


def all_rows_masked(subject: Subject) -> None:
    """NaN, or a graph without the loss's parameters, where no row of a batch counts."""
    case = Case.of(subject, num_rows=0)
    head = _head(case.student)
    states = torch.zeros(0, WIDTH, requires_grad=True)
    for student in (Rows(states=states, head=head), Rows(logits=head.module(states))):
        total = case.engine(student).total
        require(total.requires_grad and total.item() == 0.0, f"no rows give {total.item()}; expected a connected zero.")
        gradients = torch.autograd.grad(total, [states, *head.parameters(), *case.own])
        require(not any(gradient.any() for gradient in gradients), "no rows give a gradient other than zero.")
    if LABELS in case.columns:
        case = Case.of(subject)
        labels = torch.full_like(case.columns[LABELS], IGNORE_INDEX)
        case = replace(case, columns={**case.columns, LABELS: labels})
        result, gradients = case.on_logits()
        require_finite("rows without a label", result.total, *gradients)


def one_row(subject: Subject) -> None:
    """Statistics over rows, a deviation for instance, that one row alone does not have."""
    result, gradients = Case.of(subject, num_rows=1).on_logits()
    require_finite("one row", result.total, *gradients)


def half_precision(subject: Subject) -> None:
    """Overflow and lost digits where logits come in float16 or bfloat16: expected is what float32 gives for them."""
    for dtype in (torch.float16, torch.bfloat16):
        for spread in (3.0, 100.0):
            case = Case.of(subject, dtype=dtype, spread=spread)
            leaf, wide = case.student.clone().requires_grad_(), case.student.float().requires_grad_()
            found, expected = case.values(leaf), case.values(wide, [teacher.float() for teacher in case.teachers])
            require(found.dtype == torch.float32, f"{dtype} logits gave values in {found.dtype}; expected float32.")
            what = f"{dtype} logits of size {spread:g}"
            require_finite(what, found)
            require_near(found.detach(), expected.detach(), 1e-3, f"values of {what}")
            (gradient,), (reference,) = gradients_of(found.sum(), [leaf]), gradients_of(expected.sum(), [wide])
            underflow = torch.finfo(dtype).tiny * gradient.numel() ** 0.5
            require_near(gradient, reference, 2e-2, f"gradient of {what}", absolute=underflow)


def vocabulary_permutation(subject: Subject) -> None:
    """A value that depends on the order in which a tokenizer happens to number its words."""
    case = Case.of(subject, dtype=torch.float64)
    order = torch.randperm(case.student.shape[1], generator=torch.Generator().manual_seed(2))
    columns = dict(case.columns)
    if LABELS in columns:
        columns[LABELS] = torch.argsort(order)[columns[LABELS]]
    teachers = tuple(teacher[:, order] for teacher in case.teachers)
    permuted = replace(case, student=case.student[:, order], teachers=teachers, columns=columns)
    require_near(permuted.values().detach(), case.values().detach(), 1e-5, "values with the words in another order")


def chunked_as_whole(subject: Subject) -> None:
    """A value that depends on which other rows are in the chunk: the engine runs losses on a few rows at a time."""
    case = Case.of(subject, num_rows=37)
    head = _head(case.student)
    states = torch.randn(37, WIDTH, generator=torch.Generator().manual_seed(1)).requires_grad_()
    leaves = [states, *head.parameters(), *case.own]
    whole = case.engine(Rows(logits=head.module(states)), TEMPERATURE).total
    expected = gradients_of(whole, leaves)
    for memory in (1, 20_000):  # one row at a time, and a few
        total = case.engine(Rows(states=states, head=head), TEMPERATURE, memory=memory).total
        require_near(total.detach(), whole.detach(), 1e-4, "the value in chunks")
        for found, gradient in zip(gradients_of(total, leaves), expected, strict=True):
            require_near(found, gradient, 1e-4, "the gradient in chunks")


def sparse_as_dense(subject: Subject) -> None:
    """A cached teacher that teaches something else: a student normalised over the columns that were kept, for one."""
    case = Case.of(subject)
    width = case.student.shape[1]
    for num_kept in (width, max(2, width // 4)):
        sparse = [_cut(logits, num_kept) for logits in case.teachers]
        dense = list(case.teachers) if num_kept == width else [rows.logits() for rows in sparse]
        expected, references = case.on_logits(TEMPERATURE, teachers=[Rows(logits=logits) for logits in dense])
        found, gradients = case.on_logits(TEMPERATURE, teachers=sparse)
        what = f"with {num_kept} of {width} columns kept"
        require_near(found.total.detach(), expected.total.detach(), 1e-4, f"the value {what}")
        for gradient, reference in zip(gradients, references, strict=True):
            require_near(gradient, reference, 1e-3, f"the gradient {what}", absolute=1e-6)


def no_host_sync(subject: Subject) -> None:
    """A step that waits for the device: `.item()`, an `if` on a tensor, boolean masks as indices, `.cpu()`."""
    case = Case.of(subject)
    if isinstance(case.term.function, nn.Module):
        case.term.function.to("meta")
    student, *teachers = map(without_values, (case.student.requires_grad_(), *case.teachers))
    case = replace(case, columns=without_values(dict(case.columns)))
    with waiting_fails():
        gradients_of(case.values(student, teachers).sum(), [student])


def error_names_plugin(subject: Subject) -> None:
    """A failure that nobody can attribute, or that is swallowed: student and teacher with other rows must raise."""
    case = Case.of(subject)

    def misfit(student: Tensor, *teachers: Tensor) -> Tensor:
        options = {**case.columns, **case.term.settings}
        values: Tensor = case.term.function(student, *(teacher[1:] for teacher in teachers), **options)
        return values

    broken = replace(case, term=replace(case.term, function=misfit, call=RowCall()), columns={})
    require_named_error(lambda: broken.engine(Rows(logits=case.student)), subject.source)


ROW_PROPERTIES: dict[str, Callable[[Subject], None]] = {
    function.__name__: function
    for function in (
        reference_value,
        finite_difference_gradient,
        zero_at_equality,
        all_rows_masked,
        one_row,
        half_precision,
        vocabulary_permutation,
        chunked_as_whole,
        sparse_as_dense,
        no_host_sync,
        error_names_plugin,
    )
}


def _cut(logits: Tensor, num_kept: int) -> SparseRows:
    """The likeliest columns of each row, in no order, and the mass of the others."""
    log_probs = logits.log_softmax(-1)
    ids = log_probs.topk(num_kept).indices
    ids = ids[:, torch.randperm(num_kept, generator=torch.Generator().manual_seed(5))]
    kept = log_probs.gather(-1, ids)
    others = log_probs.scatter(-1, ids, -torch.inf).logsumexp(-1)
    return SparseRows(ids=ids, log_probs=kept, tail=others, vocab_size=logits.shape[1])


def _head(logits: Tensor, *, dtype: torch.dtype = torch.float32) -> Head:
    """A linear head that gives logits like `logits`."""
    model = nn.Module()
    model.projection = nn.Linear(WIDTH, logits.shape[1], bias=False, dtype=dtype)
    nn.init.normal_(model.projection.weight, generator=torch.Generator().manual_seed(3))
    return Head(model, model.projection, ())
