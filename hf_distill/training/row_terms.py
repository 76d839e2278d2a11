"""The losses on logits of one micro-batch, as one pass of the engine over the rows that count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from ..batch.signals import Batch, Rows, Signal, SparseRows
from ..losses.divergences import cross_entropy
from ..losses.engine import RowResult, RowTerm, row_losses
from ..losses.row_functions import RowCall
from .specs import TASK, ActiveLoss


class RowTerms:
    """Makes the engine's terms; what the losses take is read from their signatures once, here.

    Args:
        losses: those on logits, after their set-up, and the task's where it shares the student's projection.
        shared_columns: by teacher name, how many leading columns of the logits count.
        memory: budget of the engine in bytes.
        measure_task: whether to measure the task's loss in evaluation where it is not one of the losses.
    """

    def __init__(
        self, losses: Sequence[ActiveLoss], *, shared_columns: Mapping[str, int], memory: int, measure_task: bool
    ) -> None:
        self.losses = list(losses)
        self.shared_columns = dict(shared_columns)
        self.memory = memory
        self.measure_task = measure_task
        self._templates = {
            loss.label: RowTerm(
                name=loss.label,
                function=loss.function or cross_entropy,
                scale=0.0,
                temperature=loss.temperature,
                teachers=loss.teachers,
                source=loss.source,
            )
            for loss in losses
        }
        self._measured_task = RowTerm(
            name=TASK, function=cross_entropy, scale=0.0, teachers=(), call=RowCall(labels=True)
        )

    def compute(
        self,
        losses: Sequence[ActiveLoss],
        student: Signal,
        signals: Mapping[str, Signal],
        batch: Batch,
        scales: Mapping[str, Tensor],
        *,
        observe: bool,
        extra: Sequence[RowTerm] = (),
    ) -> RowResult:
        """All losses on logits in one pass over the rows that count.

        Args:
            losses: those that count now.
            student: what it predicts.
            signals: what each teacher predicts, by name.
            batch: the micro-batch.
            scales: what each loss's sum is multiplied by, by label.
            observe: whether to measure teacher entropy and agreement, too.
            extra: further terms, which add nothing to the loss.

        Raises:
            ValueError: a teacher predicts at other positions than the student.
        """
        terms = [replace(self._templates[loss.label], scale=scales[loss.label]) for loss in losses]
        labels = None if batch.row_labels is None else batch.row_labels[batch.row_mask]
        if observe and self.measure_task and labels is not None:
            # The perplexity of evaluation needs it, whether or not it is trained on.
            terms.append(self._measured_task)
        terms += extra
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


def row_sums(result: RowResult, count: Tensor, *, without: Sequence[RowTerm] = ()) -> dict[str, tuple[Tensor, Tensor]]:
    """What to log of a pass over rows: sums and their count, by name; some terms are left out."""
    hidden = {term.name for term in without}
    sums = {name: (value, count) for name, value in result.sums.items() if name not in hidden}
    if result.agreement_sum is not None:
        sums["teacher_agreement"] = (result.agreement_sum, count)
    if result.teacher_entropy_sum is not None:
        sums["teacher_entropy"] = (result.teacher_entropy_sum, count)
    return sums
