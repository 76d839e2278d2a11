"""Correlation congruence: a Gaussian kernel between the examples of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hf_distill import Paper

from .pooled import LAST, PooledLoss, masked_mean, pairs_of


class CorrelationCongruence(PooledLoss):
    """Mean squared difference of the two kernel matrices of the batch, a Gaussian kernel by its Taylor expansion.

    Of vectors x, y of length one ``exp(-gamma |x - y|^2) = exp(-2 gamma) exp(2 gamma x.y)``, and the second factor is
    expanded to `order`.

    Paper: Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", arXiv:1904.01802, the congruence term
    with its defaults gamma = 0.4 and order 2. The squared norm over n^2 is the paper's; the code of others takes the
    norm without the square.

    Args:
        gamma: width of the kernel.
        order: of the expansion; 0 would not depend on the vectors.
        layers: see `PooledLoss`, also for what a batch is.
        taps: see `PooledLoss`.
        pooling: see `PooledLoss`.
        stack: see `PooledLoss`.

    Raises:
        ValueError: an option out of its range.
    """

    paper = Paper("Peng et al.", 2019, title="Correlation Congruence for Knowledge Distillation", arxiv="1904.01802")

    def __init__(
        self,
        *,
        gamma: float = 0.4,
        order: int = 2,
        layers: str | Sequence[Sequence[int]] = LAST,
        taps: Sequence[str] | None = None,
        pooling: str = "mean",
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, taps=taps, pooling=pooling, stack=stack)
        if not gamma > 0 or order < 1:
            raise ValueError(f"gamma is {gamma} and order {order}; expected a positive number and at least 1.")
        self.gamma = gamma
        self.order = order

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """Mean squared difference of the kernels."""
        student_kernel, teacher_kernel = (
            gaussian_kernel(vectors, self.gamma, self.order) for vectors in (student, teacher)
        )
        return masked_mean((student_kernel - teacher_kernel).square(), pairs_of(present))


def gaussian_kernel(vectors: Tensor, gamma: float, order: int) -> Tensor:
    """The expanded kernel between the directions of ``[B, H]``, ``[B, B]``."""
    directions = nn.functional.normalize(vectors, dim=1)
    exponents = 2 * gamma * (directions @ directions.T)
    kernel = torch.ones_like(exponents)
    for power in range(1, order + 1):
        kernel = kernel + exponents**power / math.factorial(power)
    return math.exp(-2 * gamma) * kernel
