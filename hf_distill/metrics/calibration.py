"""Whether a model is as often right as it is confident."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from .base import Metric, Sums


class ExpectedCalibrationError(Metric):
    """``sum over bins m of |B_m| / n * |accuracy(B_m) - confidence(B_m)|``, bins ``((m - 1) / M, m / M]``.

    Args:
        num_bins: bins of equal width over the confidence (M).

    Raises:
        ValueError: there is no bin.

    Paper: Guo et al. (2017), On Calibration of Modern Neural Networks, arXiv:1706.04599, equation 3.
    """

    def __init__(self, *, num_bins: int = 15) -> None:
        if num_bins < 1:
            raise ValueError(f"num_bins is {num_bins}; expected at least 1.")
        self.num_bins = num_bins

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`."""
        assert labels is not None
        confidence, found = student.double().softmax(-1).max(-1)
        edges = torch.linspace(0, 1, self.num_bins + 1, dtype=torch.float64, device=student.device)[1:-1]
        # Closed on the right: a confidence of exactly m / M belongs to bin m.
        bins = torch.bucketize(confidence, edges)
        sums = {"count": torch.ones_like(confidence), "correct": (found == labels).double(), "confidence": confidence}
        empty = torch.zeros(self.num_bins, dtype=torch.float64, device=student.device)
        return {name: empty.index_add(0, bins, values) for name, values in sums.items()}

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`."""
        gaps = np.abs(sums["correct"] - sums["confidence"])
        return {"expected_calibration_error": float(gaps.sum() / sums["count"].sum())}
