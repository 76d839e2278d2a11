"""DIST: correlations instead of equality, between classes and between examples.

Shape letters: n rows, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Batch, BatchLoss, Paper, Signal, as_float32

from .examples import logits_of

_EPSILON = 1e-8


class DIST(BatchLoss):
    """``beta (1 - r_inter) + gamma (1 - r_intra)`` with Pearson correlations of the probabilities of both models.

    r_inter is a row's correlation over classes, r_intra a class's over the rows of the micro-batch. A correlation does
    not see shift and scale, so a student need not reach the probabilities of a teacher that is much surer than it.
    Both parts are multiplied by the squared temperature and logged as "inter" and "intra".

    The second part relates the rows of a micro-batch on one process: larger micro-batches see more, and a step that is
    cut into several does not give the gradient of one that is not.

    Args:
        beta: weight of the correlations between classes.
        gamma: weight of those between examples.
        temperature: of both softmaxes; 4 in the paper's experiments on CIFAR-100, 1 on ImageNet.

    Raises:
        ValueError: a temperature that is not positive.

    Paper: Huang et al. (2022), Knowledge Distillation from a Stronger Teacher, arXiv:2205.10536, eq. 7 to 10. The
        authors' weights of both parts differ between their experiments (1 or 2).
    """

    paper = Paper(
        "Huang et al.", 2022, title="Knowledge Distillation from a Stronger Teacher", name="DIST", arxiv="2205.10536"
    )
    items = "rows"
    needs_student_rows = True
    needs_teacher_rows = True

    def __init__(self, *, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> dict[str, Tensor]:
        """The sums over the rows that count."""
        q, p = (
            (as_float32(logits_of(signal, "dist", whose=whose)) / self.temperature).softmax(-1).flatten(0, -2)
            for signal, whose in ((student, "student"), (teacher, "teacher"))
        )
        present = batch.row_mask.flatten()
        inter, intra = dist(q, p.detach(), present)
        scale = self.temperature**2
        return {"inter": self.beta * scale * inter, "intra": self.gamma * scale * intra * present.sum()}


def dist(q: Tensor, p: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of ``1 - r`` over rows, and its mean over classes.

    Args:
        q: the student's probabilities, ``[n, C]``.
        p: the teacher's.
        present: which rows count, boolean ``[n]``; others may hold anything finite.
    """
    mask = present[:, None]
    inter = torch.where(present, 1 - _correlation(*(x - x.mean(1, keepdim=True) for x in (q, p)), dim=1), 0).sum()
    count = present.sum().clamp(min=1)
    columns = ((torch.where(mask, x - torch.where(mask, x, 0).sum(0) / count, 0)) for x in (q, p))
    return inter, (1 - _correlation(*columns, dim=0)).mean()


def _correlation(first: Tensor, second: Tensor, *, dim: int) -> Tensor:
    """Cosine of centred vectors; 0 where one of them does not vary."""
    lengths = torch.linalg.vector_norm(first, dim=dim) * torch.linalg.vector_norm(second, dim=dim)
    correlation: Tensor = (first * second).sum(dim) / (lengths + _EPSILON)
    return correlation
