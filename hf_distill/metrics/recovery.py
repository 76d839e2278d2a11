"""How much of what the teacher is better at the student has learned."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .base import Metric, Sums, count_of


def recovery(student: float, teacher: float, baseline: float) -> float:
    """Share of the teacher's gain over a baseline that the student recovers: ``(s - b) / (t - b)``.

    Works for measures where more is better and where less is (both differences change sign). 1 is as good as the
    teacher, 0 no better than the baseline; values outside [0, 1] are meant to be seen.

    Args:
        student: the distilled student's measure.
        teacher: the teacher's.
        baseline: that of the same student trained without the teacher.

    Raises:
        ValueError: teacher and baseline are equal: there is no gain to recover.
    """
    if teacher == baseline:
        raise ValueError(f"Teacher and baseline both measure {teacher}: there is no gain of which to recover a share.")
    return (student - baseline) / (teacher - baseline)


class Recovery(Metric):
    """`recovery` of a figure of the same evaluation: ``{name: recovery, of: accuracy, teacher: 0.93, baseline: 0.81}``.

    Args:
        of: the figure: a loss ("task_loss") or a metric that is named before this one.
        teacher: what the teacher measures.
        baseline: what the same student measures, trained without the teacher.

    Raises:
        ValueError: teacher and baseline are equal.
    """

    def __init__(self, *, of: str, teacher: float, baseline: float) -> None:
        recovery(0.0, teacher, baseline)
        self.of, self.teacher, self.baseline = of, float(teacher), float(baseline)

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`."""
        return {"count": count_of(student)}

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`.

        Raises:
            ValueError: the figure was not measured.
        """
        if self.of not in measured:
            raise ValueError(
                f"recovery is of {self.of!r}, which was not measured; there are {', '.join(sorted(measured))}. "
                "Name the metric before recovery."
            )
        return {f"{self.of}_recovery": recovery(measured[self.of], self.teacher, self.baseline)}
