"""One distillation step: teachers speak, the student runs, every loss gives a sum, the sums become one scalar.

The scalar does not depend on how a step is cut into micro-batches, accumulation steps and processes: every loss is a
sum, divided by a count over the whole step that is known before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..batch.reader import BatchReader
from ..batch.signals import Batch, Rows, Signal
from ..batch.views import TeacherView
from ..losses.base import BatchLoss
from ..losses.engine import RowTerm
from ..models.features import Taps
from ..models.forward import run_in_forward
from ..models.heads import Head
from ..plugins.registry import ErrorContext
from ..teachers.base import Teacher
from .evaluation import NamedMetric
from .nested_batches import check_parts, predictions, student_parts, teacher_parts
from .row_terms import RowTerms, row_sums
from .separate_gradients import is_separate
from .specs import ActiveLoss
from .task_loss import ROWS, model_task_loss, router_loss

ROUTER = "router"


@dataclass
class StepResult:
    """What one micro-batch gave.

    Attributes:
        loss: the scalar to differentiate: sums over global counts, times the number of processes.
        sums: each loss's unweighted local sum and local count, detached, by name.
        outputs: the student's output object.
        separate: the part of the loss whose gradient is kept apart, if there is one; `loss` has its value, but not its
            gradient.
    """

    loss: Tensor
    sums: dict[str, tuple[Tensor, Tensor]]
    outputs: Any
    separate: Tensor | None = None


class DistillationStep:
    """Holds what every step needs; built once, when student, teachers and losses are known.

    Args:
        student: the unwrapped student.
        head: its output head, or None where whole logits are used.
        teachers: by name.
        losses: the terms of the total.
        reader: finds rows and labels in a batch.
        taps: the student's features that losses asked for.
        shared_columns: by teacher name, how many leading columns of the logits count.
        memory: budget of the row losses in bytes.
        task_function: the user's ``compute_loss_func``, which then is the task's loss.
        accepts_item_count: whether the student's forward takes ``num_items_in_batch`` for its own loss.
        metrics: what evaluation measures of the rows, in the same pass.
    """

    def __init__(
        self,
        student: nn.Module,
        *,
        head: Head | None,
        teachers: Mapping[str, Teacher],
        losses: Sequence[ActiveLoss],
        reader: BatchReader,
        taps: Taps,
        shared_columns: Mapping[str, int],
        memory: int,
        task_function: Callable[..., Tensor] | None = None,
        accepts_item_count: bool = False,
        metrics: Sequence[NamedMetric] = (),
    ) -> None:
        self.student = student
        self.head = head
        self.metrics = list(metrics)
        # The first teacher is the one that metrics compare with.
        compared = any(metric.metric.needs_teacher for metric in metrics)
        self.compared_teacher = tuple(teachers)[:1] if compared else ()
        used = [*(name for loss in losses for name in loss.teachers), *self.compared_teacher]
        self.teachers = {name: teachers[name] for name in dict.fromkeys(used)}
        self.losses = list(losses)
        self.reader = reader
        self.taps = taps
        self.task_function = task_function
        self.accepts_item_count = accepts_item_count
        self.batch_losses = [loss for loss in losses if isinstance(loss.function, BatchLoss)]
        self.nested = any(loss.student_parts for loss in losses)
        self.row_losses = [loss for loss in losses if loss.is_row]
        self.task = next((loss for loss in losses if loss.is_task), None)
        # A vocabulary head's task loss is a row loss too and shares the student's projection with the others.
        self.task_is_row = head is not None and task_function is None
        on_rows = [*self.row_losses, *([self.task] if self.task is not None and self.task_is_row else [])]
        self.row_terms = RowTerms(
            on_rows,
            shared_columns=shared_columns,
            memory=memory,
            measure_task=self.task_is_row and self.task is None,
        )
        self.needs_student_rows = bool(self.row_losses or metrics) or any(
            loss.function.needs_student_rows  # type: ignore[union-attr]
            for loss in self.batch_losses
        )

    def counts(self, batches: Sequence[Batch]) -> Tensor:
        """What each loss's sum is divided by, over these micro-batches of this process: rows, then each batch loss.

        Raises:
            ValueError: a batch has not the parts that the losses read.
        """
        for batch in batches:
            check_parts(self.losses, batch)
        totals = [
            torch.stack([batch.count(ROWS), *(loss.function.count(batch) for loss in self.batch_losses)])  # type: ignore[union-attr]
            for batch in batches
        ]
        return torch.stack(totals).sum(0)

    def run(
        self,
        wrapper: nn.Module,
        batch: Batch,
        counts: Tensor,
        *,
        step: int,
        max_steps: int,
        num_processes: int,
        whole_logits: bool,
        observe: bool,
        measure: bool = False,
    ) -> StepResult:
        """Compute the loss of one micro-batch.

        Args:
            wrapper: the student as the trainer calls it.
            batch: the micro-batch.
            counts: what `counts` gave, summed over the step's micro-batches and all processes.
            step: optimizer steps finished, for the weights' schedules.
            max_steps: optimizer steps of the run.
            num_processes: gradients are averaged over this many processes afterwards.
            whole_logits: whether the caller reads the student's logits; costs the memory of the whole batch.
            observe: whether to measure teacher entropy and agreement, too.
            measure: whether to show the rows to the metrics.
        """
        losses = self._active_losses(step, max_steps) if torch.is_grad_enabled() else self.losses
        metric_terms = self._metric_terms(batch) if measure else []
        needed = dict.fromkeys((name, loss.view) for loss in losses for name in loss.teachers)
        needed |= {(name, None): None for term in metric_terms for name in term.teachers}
        teacher_signals = {(name, view): self.teacher_signal(name, batch, losses, view) for name, view in needed}
        if self.task is not None and batch.labels is None:
            raise ValueError(
                "The task loss needs labels, but the batch has none (columns: "
                f"{', '.join([*batch.inputs, *batch.extras])}). Add a `labels` column (a collator such as "
                'DataCollatorForLanguageModeling makes one), or distil without labels: losses=["forward_kl"].'
            )
        scales = {}
        for loss in losses:
            index = 1 + self.batch_losses.index(loss) if loss in self.batch_losses else 0
            scales[loss.label] = loss.weight.value(step, max_steps) * num_processes / counts[index].clamp(min=1)

        def inside(
            forward: Callable[..., Any],
        ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]], Any, Tensor | None]:
            student = self.run_student(forward, batch, whole_logits=whole_logits or self.task_function is not None)
            terms, sums, separate = [], {}, None
            for loss in self.batch_losses:
                if loss not in losses:
                    continue
                signals = {name: teacher_signals[name, loss.view] for name in loss.teachers}
                total, parts = self._batch_loss(loss, student, signals, batch)
                terms.append(total * scales[loss.label])
                sums.update(parts)
                if is_separate(loss) and torch.is_grad_enabled():
                    separate = terms.pop()
                    terms.append(_without_gradient(separate, loss))
            if self.task in losses and not self.task_is_row:
                total = model_task_loss(self.student, student.outputs, batch, self.task_function)
                terms.append(total * scales[self.task.label])
                sums[self.task.label] = (total.detach(), batch.count(ROWS))
            on_rows = [loss for loss in losses if loss.is_row or (loss.is_task and self.task_is_row)]
            if on_rows or metric_terms:
                names = [*(name for loss in on_rows for name in loss.teachers)]
                names += [name for term in metric_terms for name in term.teachers]
                signals = {name: teacher_signals[name, None] for name in names}
                result = self.row_terms.compute(
                    on_rows, student, signals, batch, scales, observe=observe, extra=metric_terms
                )
                terms.append(result.total)
                sums.update(row_sums(result, batch.count(ROWS), without=metric_terms))
            router = router_loss(self.student, student.outputs, batch) if self.task_is_row else None
            if self.task in losses and router is not None:
                terms.append(router * scales[self.task.label])
                sums[ROUTER] = (router.detach(), batch.count(ROWS))
            outputs = (
                predictions(self.batch_losses, student, batch) if self.nested and whole_logits else student.outputs
            )
            return torch.stack([term.float() for term in terms]).sum(), sums, outputs, separate

        loss, sums, outputs, separate = run_in_forward(wrapper, self.student, inside)
        return StepResult(loss=loss, sums=sums, outputs=outputs, separate=separate)

    def _metric_terms(self, batch: Batch) -> list[RowTerm]:
        """Terms that show the rows to the metrics; not to those that need labels, where there are none."""
        has_labels = batch.row_labels is not None
        metrics = [metric for metric in self.metrics if has_labels or not metric.metric.needs_labels]
        return [metric.term(self.compared_teacher) for metric in metrics]

    def _active_losses(self, step: int, max_steps: int) -> list[ActiveLoss]:
        """The losses that count now; a weight that a schedule has brought to zero costs nothing, nor does its teacher.

        A loss with parameters stays, since wrappers wait for the gradients of all parameters.
        """

        def owns_parameters(loss: ActiveLoss) -> bool:
            return loss.module is not None and any(True for _ in loss.module.parameters())

        active = [loss for loss in self.losses if loss.weight.value(step, max_steps) != 0 or owns_parameters(loss)]
        return active or self.losses

    def total(self, means: Mapping[str, float], *, step: int, max_steps: int) -> float:
        """The weighted sum of the losses' means, by the names under which they were measured."""
        total = 0.0
        for loss in self.losses:
            parts = [v for k, v in means.items() if k == loss.label or k.startswith(f"{loss.label}/")]
            total += loss.weight.value(step, max_steps) * sum(parts)
        router = self.task.weight.value(step, max_steps) * means.get(ROUTER, 0.0) if self.task is not None else 0.0
        return total + router

    def num_tokens(self, batch: Batch) -> Tensor:
        """How many tokens the student reads of a micro-batch."""
        if not self.nested:
            return batch.count("tokens")
        names = student_parts(self.losses)
        return torch.stack([batch.parts[name].count("tokens") for name in names]).sum()

    def teacher_signal(
        self, teacher: str, batch: Batch, losses: Sequence[ActiveLoss], view: TeacherView | None = None
    ) -> Signal:
        """What a teacher says about the batch as it sees it, or about those of its parts that losses asked for."""
        if view is not None:
            return self.teachers[teacher].signal(view.batch(batch))
        if not self.nested:
            return self.teachers[teacher].signal(batch)
        names = teacher_parts(losses, teacher)
        return Signal(parts={name: self.teachers[teacher].signal(batch.parts[name]) for name in names})

    def run_student(self, forward: Callable[..., Any], batch: Batch, *, whole_logits: bool) -> Signal:
        """What the student says about a micro-batch; of a nested one, about each part that a loss asked for.

        Args:
            forward: the student's forward pass, as often as there are parts.
            batch: the micro-batch.
            whole_logits: whether somebody reads logits of all positions.
        """
        if self.nested:
            names = student_parts(self.losses)
            return Signal(parts={name: self._run_on(forward, batch.parts[name], whole_logits=True) for name in names})
        return self._run_on(forward, batch, whole_logits=whole_logits)

    def _run_on(self, forward: Callable[..., Any], batch: Batch, *, whole_logits: bool) -> Signal:
        inputs = dict(batch.inputs)
        if self.task is not None and not self.task_is_row and self.task_function is None:
            inputs["labels"] = batch.labels
            if self.accepts_item_count:
                inputs["num_items_in_batch"] = batch.count(ROWS).clamp(min=1)
        head = self.head if self.needs_student_rows or self.task_is_row else None
        with self.taps.capture() as features:
            if head is not None or self.needs_student_rows:
                rows, outputs = student_rows(forward, self.student, inputs, head, skip=not whole_logits)
            else:
                rows, outputs = None, forward(**inputs)
        if rows is not None and rows.shape != batch.row_mask.shape:
            raise ValueError(
                f"The student predicts at positions {tuple(rows.shape)}, but labels and masks have "
                f"{tuple(batch.row_mask.shape)}. Something adds or drops positions (prompt tuning, packing)."
            )
        return Signal(rows=rows, features=features, outputs=outputs)

    def _batch_loss(
        self, loss: ActiveLoss, student: Signal, signals: Mapping[str, Signal], batch: Batch
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """The sum of one batch loss, and what to log: itself, or its named parts."""
        assert isinstance(loss.function, BatchLoss)
        teacher = signals[loss.teachers[0]] if loss.teachers else Signal()
        with ErrorContext(loss.source):
            values = loss.function(student, teacher, batch)
        count = loss.function.count(batch)
        if not isinstance(values, Mapping):
            return values, {loss.label: (values.detach(), count)}
        parts = {f"{loss.label}/{part}": (value.detach(), count) for part, value in values.items()}
        return torch.stack(list(values.values())).sum(), parts


def _without_gradient(term: Tensor, loss: ActiveLoss) -> Tensor:
    """The value alone; wrappers wait for gradients of all parameters, so the loss's own get one of zero."""
    assert loss.module is not None
    zeros = [parameter.flatten()[:1].sum() * 0 for parameter in loss.module.parameters() if parameter.requires_grad]
    return torch.stack([term.detach(), *zeros]).sum()


def student_rows(
    forward: Callable[..., Any], student: nn.Module, inputs: Mapping[str, Any], head: Head | None, *, skip: bool = True
) -> tuple[Rows, Any]:
    """Run the student for its predictions: with a head, the states that go into it; without, its logits.

    Args:
        forward: the student's forward pass.
        student: the unwrapped student, for messages.
        inputs: what `forward` takes.
        head: the student's head, or None where whole logits are used.
        skip: whether the head is left out of this pass, to run later on the rows that count.

    Raises:
        ValueError: the student gives no logits.
    """
    if head is not None:
        with head.deferred(skip=skip) as captured:
            outputs = forward(**inputs)
        return Rows(states=captured.states, head=head), outputs
    outputs = forward(**inputs)
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if logits is None:
        raise ValueError(
            f"{type(student).__name__} returns no `logits`, but a loss compares them (it returned "
            f"{', '.join(outputs) if isinstance(outputs, Mapping) else type(outputs).__name__}). "
            "Use losses on features for such a model."
        )
    return Rows(logits=logits), outputs
