"""How closely a student's distributions follow its teacher's."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Metric, Sums, count_of


class ProbabilityLoyalty(Metric):
    """Mean of ``1 - sqrt(JSD(p_student, p_teacher))``, base 2, in [0, 1].

    Paper: Xu et al. (2021), Beyond Preserved Accuracy, arXiv:2109.03228. The base of the logarithm (loyalty is then in
    [0, 1]) was reconstructed from secondary descriptions and not confirmed in the paper.
    """

    needs_labels = False
    needs_teacher = True

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`."""
        assert teacher is not None
        p, q = student.double().softmax(-1), teacher.double().softmax(-1)
        middle = (p + q) / 2
        # Where a side has no mass it adds nothing; rounding may leave a little below zero for equal distributions.
        entropies = [(torch.xlogy(side, side) - torch.xlogy(side, middle)).sum(-1) for side in (p, q)]
        divergence = (entropies[0] + entropies[1]).div(2 * math.log(2)).clamp(min=0)
        return {"loyalty": (1 - divergence.sqrt()).sum(), "count": count_of(student)}

    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """See `Metric.compute`."""
        return {"probability_loyalty": float(sums["loyalty"] / sums["count"])}
