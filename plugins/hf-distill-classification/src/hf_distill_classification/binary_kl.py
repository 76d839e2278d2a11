"""The binary KL of logits: what Dual-Head KD teaches its second head."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_distill import Paper, as_float32, row_loss


@row_loss(
    paper=Paper("Yang et al.", 2024, title="Dual-Head Knowledge Distillation", arxiv="2411.08937"),
    accepts_one_column=True,
)
def binary_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """The KL of a fair coin and one with ``s_c = sigmoid(z_student - z_teacher)``, summed over classes.

    Each class by itself: the logits themselves are compared, not a distribution, so that their mean is taught, too.
    In closed form it is ``sum_c log cosh((z_student - z_teacher) / 2)``: quadratic near equality, with a gradient of at
    most 1/2 a class. On the head that also learns the labels it harms more than it helps, says the paper; `dual_head`
    gives it a head of its own.

    Args:
        student_logits: ``[n, V]``, divided by the temperature (the paper's is 2).
        teacher_logits: the same of the teacher; classes that it excludes with -inf do not count.

    Returns:
        ``[n]``, float32.

    Paper: Yang et al. (2024), Dual-Head Knowledge Distillation, arXiv:2411.08937 (BinaryKL-Norm). The authors' code
        clamps s to 1e-8 from 0 and 1; this does not.
    """
    teacher = as_float32(teacher_logits.detach())
    half = ((as_float32(student_logits) - teacher) / 2).masked_fill(teacher == -torch.inf, 0)
    # log cosh(x) = |x| + log(1 + exp(-2 |x|)) - log 2
    size = half.abs()
    return (size + torch.nn.functional.softplus(-2 * size) - math.log(2)).sum(-1)
