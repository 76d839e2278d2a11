"""Perplexity: a mean over all tokens, never a mean of means of batches."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Metric, Sums, count_of


class Perplexity(Metric):
    """``exp(sum of cross-entropies / number of rows)``, whatever the losses of the training are."""

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`."""
        assert labels is not None
        values = torch.nn.functional.cross_entropy(student, labels.long(), reduction="none")
        return {"cross_entropy": values.double().sum(), "count": count_of(student)}

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`."""
        mean = float(sums["cross_entropy"] / sums["count"])
        return {"perplexity": math.exp(min(mean, 700.0))}
