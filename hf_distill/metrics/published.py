"""Metrics of classes that others have published for the library `evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Sums
from .confusion import ConfusionMetric, classes_of


class PublishedMetric(ConfusionMetric):
    """``{name: evaluate, path: matthews_correlation}``: what `evaluate.load` finds at `path`, a hub name or a folder.

    Args:
        path: what `evaluate.load` takes. Its code is run.
        config_name: which of its configurations.
        arguments: what its `compute` takes beside predictions and references.
    """

    def __init__(
        self, *, path: str, config_name: str | None = None, arguments: Mapping[str, Any] | None = None
    ) -> None:
        import evaluate

        self.metric = evaluate.load(path, config_name)
        self.arguments = dict(arguments or {})

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`; the order of rows is lost, on which no metric of classes depends."""
        truth, found, counts = classes_of(sums)
        rows = {"predictions": np.repeat(found, counts.astype(int)), "references": np.repeat(truth, counts.astype(int))}
        results = self.metric.compute(**rows, **self.arguments)
        return {name: float(value) for name, value in results.items() if np.ndim(value) == 0}
