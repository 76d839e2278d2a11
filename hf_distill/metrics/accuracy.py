"""How often the most likely class is the right one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .base import Metric, Sums, count_of


class Accuracy(Metric):
    """The share of rows whose most likely column is their label."""

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`."""
        assert labels is not None
        return {"correct": (student.argmax(-1) == labels).double().sum(), "count": count_of(student)}

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`."""
        return {"accuracy": float(sums["correct"] / sums["count"])}
