"""One distillation step: teachers speak, the student runs, every loss gives a sum, the sums become one scalar.

The scalar does not depend on how a step is cut into micro-batches, accumulation steps and processes: every loss is a
sum, divided by a count over the whole step that is known before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..batch.reader import BatchReader
from ..batch.signals import Batch, Rows, Signal, SparseRows
from ..batch.views import TeacherView
from ..losses.base import BatchLoss
from ..losses.divergences import cross_entropy
from ..losses.engine import RowResult, RowTerm, row_losses
from ..models.features import Taps
from ..models.forward import run_in_forward
from ..models.heads import Head
from ..plugins.registry import ErrorContext
from ..teachers.base import Teacher
from .separate_gradients import is_separate
from .specs import TASK, ActiveLoss

ROWS = "rows"
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
    ) -> None:
        self.student = student
        self.head = head
        self.teachers = {
            name: teachers[name] for name in dict.fromkeys(name for loss in losses for name in loss.teachers)
        }
        self.losses = list(losses)
        self.reader = reader
        self.taps = taps
        self.shared_columns = dict(shared_columns)
        self.memory = memory
        self.task_function = task_function
        self.accepts_item_count = accepts_item_count
        self.batch_losses = [loss for loss in losses if isinstance(loss.function, BatchLoss)]
        self.nested = any(loss.student_parts for loss in losses)
        self.row_losses = [loss for loss in losses if loss.is_row]
        self.task = next((loss for loss in losses if loss.is_task), None)
        # A vocabulary head's task loss is a row loss too and shares the student's projection with the others.
        self.task_is_row = head is not None and task_function is None
        self.needs_student_rows = bool(self.row_losses) or any(
            loss.function.needs_student_rows  # type: ignore[union-attr]
            for loss in self.batch_losses
        )

    def counts(self, batches: Sequence[Batch]) -> Tensor:
        """What each loss's sum is divided by, over these micro-batches of this process: rows, then each batch loss.

        Raises:
            ValueError: a batch has not the parts that the losses read.
        """
        for batch in batches:
            self._check_parts(batch)
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
        """
        losses = self._active_losses(step, max_steps) if torch.is_grad_enabled() else self.losses
        needed = dict.fromkeys((name, loss.view) for loss in losses for name in loss.teachers)
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
                total = self._own_task_loss(student.outputs, batch)
                terms.append(total * scales[self.task.label])
                sums[self.task.label] = (total.detach(), batch.count(ROWS))
            on_rows = [loss for loss in losses if loss.is_row or (loss.is_task and self.task_is_row)]
            if on_rows:
                signals = {name: teacher_signals[name, None] for loss in on_rows for name in loss.teachers}
                result = self._rows(on_rows, student, signals, batch, scales, observe=observe)
                terms.append(result.total)
                sums.update(_row_sums(result, batch.count(ROWS)))
            if self.task in losses and (router := self._router_loss(student.outputs, batch)) is not None:
                terms.append(router * scales[self.task.label])
                sums[ROUTER] = (router.detach(), batch.count(ROWS))
            outputs = self._predictions(student, batch) if self.nested and whole_logits else student.outputs
            return torch.stack([term.float() for term in terms]).sum(), sums, outputs, separate

        loss, sums, outputs, separate = run_in_forward(wrapper, self.student, inside)
        return StepResult(loss=loss, sums=sums, outputs=outputs, separate=separate)

    def _active_losses(self, step: int, max_steps: int) -> list[ActiveLoss]:
        """The losses that count now; a weight that a schedule has brought to zero costs nothing, nor does its teacher.

        A loss with parameters stays, since wrappers wait for the gradients of all parameters.
        """

        def owns_parameters(loss: ActiveLoss) -> bool:
            return loss.module is not None and any(True for _ in loss.module.parameters())

        awake = [loss for loss in self.losses if loss.weight.value(step, max_steps) != 0 or owns_parameters(loss)]
        return awake or self.losses

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
        names = dict.fromkeys(name for loss in self.losses for name in loss.student_parts)
        return torch.stack([batch.parts[name].count("tokens") for name in names]).sum()

    def _check_parts(self, batch: Batch) -> None:
        for loss in self.losses:
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

    def teacher_signal(
        self, teacher: str, batch: Batch, losses: Sequence[ActiveLoss], view: TeacherView | None = None
    ) -> Signal:
        """What a teacher says about the batch as it sees it, or about those of its parts that losses asked for."""
        if view is not None:
            return self.teachers[teacher].signal(view.batch(batch))
        if not self.nested:
            return self.teachers[teacher].signal(batch)
        names = dict.fromkeys(part for loss in losses if teacher in loss.teachers for part in loss.teacher_parts)
        return Signal(parts={name: self.teachers[teacher].signal(batch.parts[name]) for name in names})

    def _predictions(self, student: Signal, batch: Batch) -> dict[str, Tensor]:
        """Outputs of a nested batch: what the first loss that can makes of what the student said about its parts."""
        for loss in self.batch_losses:
            assert isinstance(loss.function, BatchLoss)
            with ErrorContext(loss.source):
                if (logits := loss.function.predictions(student, batch)) is not None:
                    return {"logits": logits}
        raise ValueError(
            "compute_metrics needs predictions, but none of the losses makes some of a nested batch: "
            f"{', '.join(loss.label for loss in self.batch_losses)}. Set prediction_loss_only=True, or define "
            "`predictions` in one of them."
        )

    def run_student(self, forward: Callable[..., Any], batch: Batch, *, whole_logits: bool) -> Signal:
        """What the student says about a micro-batch; of a nested one, about each part that a loss asked for.

        Args:
            forward: the student's forward pass, as often as there are parts.
            batch: the micro-batch.
            whole_logits: whether somebody reads logits of all positions.
        """
        if self.nested:
            names = dict.fromkeys(name for loss in self.losses for name in loss.student_parts)
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

    def _own_task_loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The sum of the task's loss over the micro-batch's rows, from the model or the user's function.

        Both give a mean over the items they are told of, or over the micro-batch; told of the micro-batch alone, that
        mean times the count is the sum, whichever of the two it is.
        """
        count = batch.count(ROWS)
        if self.task_function is not None:
            mean = self.task_function(outputs, batch.labels, num_items_in_batch=count.clamp(min=1))
        elif isinstance(outputs, Mapping) and "loss" not in outputs:
            raise ValueError(
                f"The task loss is the model's own, but {type(self.student).__name__} gave none for labels (outputs: "
                f"{', '.join(outputs)}). Leave task out of the losses, or pass compute_loss_func to the trainer."
            )
        else:
            mean = outputs["loss"] if isinstance(outputs, Mapping) else outputs[0]
        return mean.float() * count

    def _router_loss(self, outputs: Any, batch: Batch) -> Tensor | None:
        """A mixture-of-experts student's load-balancing loss, which its own loss would have contained.

        It is not linear in the batch, so it is the one term that depends on how a step is cut.
        """
        aux = outputs.get("aux_loss") if isinstance(outputs, Mapping) and self.task_is_row else None
        if aux is None:
            return None
        coefficient = float(getattr(self.student.config, "router_aux_loss_coef", 0.0))
        weighted: Tensor = aux * coefficient * batch.count(ROWS)
        return weighted

    def _rows(
        self,
        losses: Sequence[ActiveLoss],
        student: Signal,
        signals: Mapping[str, Signal],
        batch: Batch,
        scales: Mapping[str, Tensor],
        *,
        observe: bool,
    ) -> RowResult:
        """All losses on logits in one pass over the rows that count."""
        terms = [
            RowTerm(
                name=loss.label,
                function=loss.function or cross_entropy,
                scale=scales[loss.label],
                temperature=loss.temperature,
                teachers=loss.teachers,
                source=loss.source,
            )
            for loss in losses
        ]
        labels = None if batch.row_labels is None else batch.row_labels[batch.row_mask]
        if observe and self.task_is_row and self.task is None and labels is not None:
            # The perplexity of evaluation needs it, whether or not it is trained on.
            terms.append(RowTerm(name=TASK, function=cross_entropy, scale=0.0, teachers=()))
        teachers = {
            name: self._teacher_rows(name, signals[name], batch)
            for name in dict.fromkeys(name for term in terms for name in term.teachers)
        }
        assert isinstance(student.rows, Rows)
        return row_losses(
            student.rows.select(batch.row_mask),
            teachers,
            terms,
            labels=labels,
            columns={name: batch.by_row(name) for loss in losses if loss.module for name in loss.module.columns},
            memory=self.memory,
            observe=observe,
        )

    def _teacher_rows(self, name: str, signal: Signal, batch: Batch) -> Rows | SparseRows:
        """A teacher's predictions where they count."""
        rows = signal.rows
        assert rows is not None
        if rows.shape != batch.row_mask.shape:
            raise ValueError(
                f"The teacher {name!r} predicts at positions {tuple(rows.shape)}, the student at "
                f"{tuple(batch.row_mask.shape)}; losses on logits compare them one by one."
            )
        return self.shared_rows(name, rows.select(batch.row_mask))

    def shared_rows(self, teacher: str, rows: Rows | SparseRows) -> Rows | SparseRows:
        """A teacher's rows cut to the columns that the student has, too."""
        shared = self.shared_columns.get(teacher)
        if isinstance(rows, Rows):
            return replace(rows, vocab_size=shared)
        return rows if shared in (None, rows.vocab_size) else rows.conditioned(columns=shared, temperature=1.0)


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


def _row_sums(result: RowResult, count: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    sums = {name: (value, count) for name, value in result.sums.items()}
    if result.agreement_sum is not None:
        sums["teacher_agreement"] = (result.agreement_sum, count)
    if result.teacher_entropy_sum is not None:
        sums["teacher_entropy"] = (result.teacher_entropy_sum, count)
    return sums
