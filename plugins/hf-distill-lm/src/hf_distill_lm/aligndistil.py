"""AlignDistil: what a model that was trained on preferences would say, had it gone further."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Paper, as_float32, reverse_kl, row_loss

_LEAST_WEIGHT = 1e-3
_EXCLUDED = -1e4  # stands for logits of -inf, whose difference is not a number


@row_loss(paper=Paper("Zhang et al.", 2025, name="AlignDistil", arxiv="2503.02832"))
def aligndistil(
    student_logits: Tensor,
    preferred_logits: Tensor,
    reversed_logits: Tensor,
    *,
    beta: float = 0.1,
    extrapolation: float = 10.0,
) -> Tensor:
    """Reverse KL to a teacher that is extrapolated from two, further where the two differ.

    With z+ of a model trained by DPO and z- of one trained with chosen and rejected answers exchanged, per token::

        w = extrapolation |p+ - p-|_1 + 0.001
        value = beta / w KL(q || softmax(z+ + w (z+ - z-)))

    Args:
        student_logits: ``[n, V]``; the student starts as the model that both teachers were trained from.
        preferred_logits: ``[n, V]``, of the first teacher.
        reversed_logits: ``[n, V]``, of the second teacher; as losses entry ``teacher: [dpo, reverse_dpo]``.
        beta: the one that both teachers were trained with.
        extrapolation: beta_2; 10 on texts that are there, 15 on the student's own.

    Raises:
        ValueError: an option that is not positive.

    Paper: Zhang et al. (2025), AlignDistil, arXiv:2503.02832, section 4. The authors' code multiplies values at
        position t by the mask of token t; here, as everywhere, by that of token t + 1, which is predicted at t.
        Means are over tokens, not over answers first.
    """
    if not beta > 0 or not extrapolation > 0:
        raise ValueError(f"beta is {beta}, extrapolation {extrapolation}; expected positive numbers.")
    with torch.no_grad():
        preferred, other = (as_float32(logits).clamp(min=_EXCLUDED) for logits in (preferred_logits, reversed_logits))
        distance = preferred.softmax(-1).sub_(other.softmax(-1)).abs_().sum(-1)
        weight = distance.mul_(extrapolation).add_(_LEAST_WEIGHT)
        target = torch.sub(preferred, other, out=other).mul_(weight[:, None]).add_(preferred)
    return reverse_kl(student_logits, target) * (beta / weight)
