"""Decoupled knowledge distillation: the target class by itself, and the others among themselves."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Paper, row_loss

from .log_probabilities import log_probabilities
from .standardized_kl import standardize as standardized


@row_loss(paper=Paper("Zhao et al.", 2022, title="Decoupled Knowledge Distillation", name="DKD", arxiv="2203.08679"))
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    temperature: float,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    standardize: bool = False,
) -> Tensor:
    """``alpha TCKD + beta NCKD``.

    TCKD is the KL between the two-way distributions "target class or not", NCKD the KL between the distributions over
    all other classes. The usual KL is ``TCKD + (1 - p_target) NCKD``, so it hides the second where the teacher is sure;
    here each has a weight of its own. The authors let the loss's weight grow over the first 20 of 240 epochs, which is
    ``weight: {start: 0, end: 1, fraction: 0.083}``; their temperature is 4.

    Args:
        student_logits: ``[n, V]``, divided by the temperature.
        teacher_logits: the same of the teacher.
        labels: ``[n]``; rows without one count as zero.
        temperature: by which logits were divided.
        alpha: weight of the target class.
        beta: weight of the other classes.
        standardize: divide each row's logits by their deviation first (`standardized_kl`), with both weights nine times
            as large and a temperature of 2 in that paper.

    Returns:
        ``[n]``, float32.

    Paper: Zhao et al. (2022), Decoupled Knowledge Distillation, arXiv:2203.08679, eq. 7; `standardize`: Sun et al.
        (2024), arXiv:2403.01427. Values are those of the authors' code, which masks with -1000 where this leaves out.
    """
    if standardize:
        student_logits, teacher_logits = (standardized(x) / temperature for x in (student_logits, teacher_logits))
    is_target = labels.clamp(min=0)[:, None] == torch.arange(student_logits.shape[-1], device=labels.device)
    target_q, rest_q, others_q = _decouple(student_logits, is_target)
    target_p, rest_p, others_p = _decouple(teacher_logits.detach(), is_target)
    tckd = target_p.exp() * (target_p - target_q) + rest_p.exp() * (rest_p - rest_q)
    nckd = (others_p.exp() * (others_p - others_q)).sum(-1)
    return torch.where(labels >= 0, alpha * tckd + beta * nckd, 0)


def _decouple(logits: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms: the target's probability and that of all others, ``[n]``; among these, 0 at it, ``[n, V]``."""
    log_p = log_probabilities(logits)
    target = log_p.masked_fill(~is_target, 0).sum(-1)
    rest = log_p.masked_fill(is_target, -torch.inf).logsumexp(-1)
    return target, rest, (log_p - rest[:, None]).masked_fill(is_target, 0)
