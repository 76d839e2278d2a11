"""F1 of classes, by scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping

from .base import Sums
from .confusion import ConfusionMetric, classes_of


class F1(ConfusionMetric):
    """The mean of the classes' F1 (macro), or that of all rows together (micro), or weighted by the classes' sizes.

    Args:
        average: "macro", "micro" or "weighted", as in `sklearn.metrics.f1_score`.

    Raises:
        ValueError: another average, or scikit-learn is not installed.
    """

    def __init__(self, *, average: str = "macro") -> None:
        if average not in ("macro", "micro", "weighted"):
            raise ValueError(f"average is {average!r}; expected 'macro', 'micro' or 'weighted'.")
        try:
            import sklearn  # noqa: F401
        except ImportError:
            raise ValueError("The metric f1 needs scikit-learn: pip install 'hf-distill[metrics]'.") from None
        self.average = average

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`."""
        from sklearn.metrics import f1_score

        truth, found, counts = classes_of(sums)
        return {"f1": float(f1_score(truth, found, sample_weight=counts, average=self.average, zero_division=0))}
