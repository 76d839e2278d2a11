"""What an evaluation adds up: each loss, what is observed of the teacher, and the metrics that were named."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor

from ..batch.signals import Batch, Rows
from ..losses.engine import RowTerm, row_losses
from ..losses.row_functions import RowCall
from ..metrics.base import Metric
from ..plugins.manager import Plugins
from ..plugins.registry import ErrorContext
from .distributed import sum_over_processes
from .meter import Meter, means, named_for_log


class NamedMetric:
    """A metric of a run, with the sums of the evaluation under way.

    Args:
        name: as it was named.
        metric: the metric.
        source: where it comes from, for errors.
    """

    def __init__(self, name: str, metric: Metric, source: str) -> None:
        self.name, self.metric, self.source = name, metric, source
        self._sums: dict[str, Tensor] = {}

    def clear(self) -> None:
        """Forget the sums."""
        self._sums = {}

    def term(self, teachers: tuple[str, ...]) -> RowTerm:
        """A term for the engine that adds nothing to the loss, and shows this metric every row."""
        call = RowCall(labels=self.metric.needs_labels)
        teachers = teachers if self.metric.needs_teacher else ()
        return RowTerm(f"metric {self.name}", self._record, 0.0, teachers=teachers, source=self.source, call=call)

    def _record(self, student: Tensor, *others: Tensor, labels: Tensor | None = None) -> Tensor:
        teacher = others[0] if self.metric.needs_teacher else None
        if not self.metric.needs_teacher:  # the engine gives labels by position where there is no teacher
            (labels,) = others
        with ErrorContext(self.source):
            sums = self.metric.update(student, teacher, labels)
        for name, value in sums.items():
            self._sums[name] = value if name not in self._sums else self._sums[name] + value
        return student.new_zeros(len(student))

    def result(self, measured: Mapping[str, float], device: torch.device) -> dict[str, float]:
        """The figures over all processes, none where no row was seen; collective where a process group runs."""
        # A process may have seen no row, and then it does not know what there is to add up.
        shapes: dict[str, torch.Size] = {}
        for known in gather_object([{name: value.shape for name, value in self._sums.items()}]):
            shapes |= known
        total = {}
        for name, shape in sorted(shapes.items()):
            value = self._sums.get(name, torch.zeros(shape))
            total[name] = sum_over_processes(value.to(device, torch.float64))
        if not total:
            return {}
        with ErrorContext(self.source):
            return self.metric.compute({name: value.cpu().numpy() for name, value in total.items()}, measured)


def make_metrics(specs: Sequence[Any] | str | None, plugins: Plugins) -> list[NamedMetric]:
    """The metrics that a user listed: names, mappings of name and options, or `Metric` objects.

    Raises:
        ValueError: an unknown name or option, or one metric twice.
    """
    specs = [specs] if isinstance(specs, (str, Mapping, Metric)) else list(specs or ())
    metrics: list[NamedMetric] = []
    for spec in specs:
        if isinstance(spec, Metric):
            name, metric, source = type(spec).__name__, spec, "the training script"
        else:
            options = {"name": spec} if isinstance(spec, str) else dict(spec)
            if "name" not in options:
                raise ValueError(f"The metric {spec!r} has no name. Say which: {{'name': 'accuracy'}}.")
            name = options.pop("name")
            metric = plugins.metrics.create(name, options)
            source = str(plugins.metrics.get(name))
            if not isinstance(metric, Metric):
                raise ValueError(f"{source} makes a {type(metric).__name__}; expected a hf_distill.Metric.")
            name = f"{name} of {options['of']}" if "of" in options else name
        if name in {other.name for other in metrics}:
            raise ValueError(f"The metric {name!r} is named twice.")
        metrics.append(NamedMetric(name, metric, source))
    return metrics


class Evaluation:
    """Adds up an evaluation.

    Args:
        metrics: that were named.
    """

    def __init__(self, metrics: Sequence[NamedMetric]) -> None:
        self.metrics = list(metrics)
        self._losses = Meter()

    def clear(self) -> None:
        """A new evaluation begins."""
        self._losses.clear()
        for metric in self.metrics:
            metric.clear()

    def add(self, sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add each loss's sum and count over a batch."""
        self._losses.add_all(sums)

    def add_logits(self, logits: Any, batch: Batch, memory: int) -> None:
        """Show a batch's logits to the metrics, where there are no losses whose pass they could share.

        Raises:
            ValueError: the model gives something else than logits, or a metric compares with a teacher.
        """
        if batch.row_labels is None:
            return
        if not isinstance(logits, Tensor) or logits.shape[:-1] != batch.row_mask.shape:
            raise ValueError(
                f"Metrics read one row of logits for each of {tuple(batch.row_mask.shape)} labels, but the model gives "
                f"{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}."
            )
        rows = Rows(logits=logits).select(batch.row_mask)
        terms = [metric.term(()) for metric in self.metrics]
        with torch.no_grad():
            row_losses(rows, {}, terms, labels=batch.row_labels[batch.row_mask], memory=memory)

    def results(
        self, total: Callable[[Mapping[str, float]], float], device: torch.device, *, has_vocabulary: bool
    ) -> dict[str, float]:
        """All figures, by the names that they get in the log; collective where a process group runs.

        Args:
            total: the weighted sum of the losses, from their means.
            device: where sums over processes are made.
            has_vocabulary: whether the task's loss is a cross-entropy over a vocabulary, which has a perplexity.
        """
        by_loss = means(self._losses.read(device))
        measured = named_for_log(by_loss)
        if by_loss:
            # Trainer's own is a mean over batches, which depends on how many examples each has.
            measured["loss"] = total(by_loss)
        if has_vocabulary and "task_loss" in measured:
            measured["perplexity"] = math.exp(min(measured["task_loss"], 700.0))
        for metric in self.metrics:
            measured.update(metric.result(measured, device))
        return measured
