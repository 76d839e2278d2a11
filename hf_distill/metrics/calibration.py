"""Whether a model is as often right as it is confident."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from .distributions import check_distributions

_DESCRIPTION = "Expected calibration error of the most likely class."
_INPUTS = """
Args:
    predictions: [n, C] probabilities.
    references: [n] true classes.
    n_bins: bins of equal width over the confidence, 15 by default.
Returns:
    expected_calibration_error: in [0, 1].
    accuracy: share of rows whose most likely class is the true one.
    confidence: mean probability of the most likely class.
"""
_CITATION = """
@inproceedings{guo2017calibration,
  title = {On Calibration of Modern Neural Networks},
  author = {Guo, Chuan and Pleiss, Geoff and Sun, Yu and Weinberger, Kilian Q.},
  booktitle = {ICML}, year = {2017}, note = {arXiv:1706.04599}
}
"""


class ExpectedCalibrationError(evaluate.Metric):  # type: ignore[misc]
    """``sum over bins m of |B_m| / n * |accuracy(B_m) - confidence(B_m)|``, bins ``((m - 1) / M, m / M]``.

    Paper: Guo et al. 2017, arXiv:1706.04599, equation 3.

        ExpectedCalibrationError().compute(predictions=probabilities, references=labels, n_bins=15)
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, *, predictions: Any, references: Any, n_bins: int = 15) -> dict[str, float]:
        if n_bins < 1:
            raise ValueError(f"n_bins is {n_bins}; expected at least 1.")
        probabilities = check_distributions(np.asarray(predictions))
        confidence = probabilities.max(-1)
        correct = probabilities.argmax(-1) == np.asarray(references)
        # Closed on the right: a confidence of exactly m / M belongs to bin m.
        bins = np.digitize(confidence, np.linspace(0, 1, n_bins + 1)[1:-1], right=True)
        gaps = np.bincount(bins, weights=correct - confidence, minlength=n_bins)
        return {
            "expected_calibration_error": float(np.abs(gaps).sum() / len(confidence)),
            "accuracy": float(correct.mean()),
            "confidence": float(confidence.mean()),
        }
