"""How often a student predicts what its teacher predicts."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from .base import Metric, Sums, count_of


class TeacherAgreement(Metric):
    """The share of rows where the most likely columns agree ("label loyalty").

    Paper: Xu et al. (2021), Beyond Preserved Accuracy, arXiv:2109.03228.
    """

    needs_labels = False
    needs_teacher = True

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`."""
        assert teacher is not None
        return {"agreeing": (student.argmax(-1) == teacher.argmax(-1)).double().sum(), "count": count_of(student)}

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`."""
        return {"teacher_agreement": float(sums["agreeing"] / sums["count"])}
