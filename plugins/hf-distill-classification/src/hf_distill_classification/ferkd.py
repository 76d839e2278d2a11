"""FerKD's labels: the teacher's where it knows, the true ones where it does not, none where it has no idea."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Paper, row_loss

from .log_probabilities import log_probabilities


@row_loss(paper=Paper("Shen", 2023, name="FerKD", arxiv="2312.17473"))
def ferkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    *,
    lower: float,
    middle: float,
    upper: float = 1.0,
    smoothing: float = 0.1,
) -> Tensor:
    """Cross-entropy with a target that depends on the teacher's confidence, its largest probability.

    =========================  =========================================================
    below `lower`              nothing: the crop (or the text) does not show its class
    `lower` to `middle`        the label, smoothed: ``1 - smoothing`` for it, the rest shared by all other classes
    `middle` to `upper`        the teacher's distribution
    above `upper`              nothing: too easy to learn from
    =========================  =========================================================

    The mean runs over all rows; those that are left out count as zero.

    Args:
        student_logits: ``[n, V]``.
        teacher_logits: ``[n, V]``; confidences are those at the loss's temperature.
        labels: ``[n]``; a row without one counts as zero where the label would be the target.
        lower: of the teacher's confidence.
        middle: of the teacher's confidence.
        upper: of the teacher's confidence.
        smoothing: epsilon.

    Returns:
        ``[n]``, float32.

    Raises:
        ValueError: thresholds out of order, or smoothing out of range.

    After the paper's description: Shen (2023), FerKD, arXiv:2312.17473. The rule is the paper's; values of the
        thresholds are not in the released code, so they must be given (shares of the teacher's confidences on the
        training data are a choice). SelfMix and crops, which are data, are not here.
    """
    if not 0 <= lower <= middle <= upper <= 1:
        raise ValueError(f"Thresholds are {lower}, {middle}, {upper}; expected 0 <= lower <= middle <= upper <= 1.")
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; expected at least 0 and less than 1.")
    log_q, p = log_probabilities(student_logits), log_probabilities(teacher_logits.detach()).exp()
    num_classes = p.shape[-1]
    is_label = labels.clamp(min=0)[:, None] == torch.arange(num_classes, device=labels.device)
    smoothed = torch.where(is_label, 1 - smoothing, smoothing / max(num_classes - 1, 1))
    confidence = p.amax(-1)
    is_hard = confidence < middle
    target = torch.where(is_hard[:, None], smoothed, p)
    counts = (confidence >= lower) & (confidence <= upper) & (~is_hard | (labels >= 0))
    return torch.where(counts, -(target * log_q).sum(-1), 0)
