"""AKL: forward and reverse KL, weighted by where the student is wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Paper, row_loss, rowwise

_MOST_IN_HEAD = 256


@row_loss(
    paper=Paper(
        "Wu et al.",
        2024,
        title="Rethinking KL Divergence in Knowledge Distillation for LLMs",
        name="AKL",
        arxiv="2404.02657",
    )
)
def adaptive_kl(student_logits: Tensor, teacher_logits: Tensor, *, head: float = 0.5) -> Tensor:
    """``w KL(p || q) + (1 - w) KL(q || p)``; w is the head's share of ``sum |p - q|``, taken as constant.

    The head is what is most likely for the teacher: classes from the top as long as their mass stays within `head`, and
    the most likely one in any case. The forward KL teaches the head first and the reverse KL the tail, so each is
    weighed by how wrong the student is there. Where both models agree entirely, the weights are equal. A head of more
    than 256 classes, which only a very flat teacher has, is cut there: sorting whole vocabularies would take longer
    than all the rest.

    Args:
        student_logits: ``[n, V]``.
        teacher_logits: ``[n, V]``.
        head: the teacher's mass that counts as head, between 0 and 1, both excluded (mu).

    Raises:
        ValueError: head is out of range.

    Paper: Wu et al. (2024), Rethinking KL Divergence in Knowledge Distillation for LLMs, arXiv:2404.02657, section 4.
        The bounds of the head are those of the authors' code. Deviation: classes that are equally likely for the
        teacher are in the head together or not at all, so that their order does not matter.
    """
    if not 0 < head < 1:
        raise ValueError(f"head is {head}; expected a share of the teacher's mass between 0 and 1.")

    def formula(q: Tensor, log_q: Tensor, log_p: Tensor, _differentiate: bool) -> tuple[Tensor, Tensor]:
        p = log_p.exp()
        gap = (p - q).abs_()
        total = gap.sum(-1)
        in_head = torch.linalg.vecdot(gap, _head(p, head).to(gap.dtype))
        weight = torch.where(total > 0, in_head / total, 0.5)
        ratio = log_p.sub_(log_q)
        values = weight * torch.linalg.vecdot(p, ratio) - (1 - weight) * torch.linalg.vecdot(q, ratio)
        # q d/dq: -p of the forward KL, q (log q - log p) of the reverse one, beside a constant
        return values, ratio.mul_(q).mul_((weight - 1)[:, None]).addcmul_(p, weight[:, None], value=-1)

    return rowwise(student_logits, teacher_logits, formula)


def _head(p: Tensor, share: float) -> Tensor:
    """Which classes are in the head, boolean ``[n, V]``."""
    likely = p.topk(min(_MOST_IN_HEAD, p.shape[-1]), dim=-1).values
    inside = likely.cumsum(-1) <= share
    inside[:, 0] = True
    return p >= likely.where(inside, torch.inf).amin(-1, keepdim=True)
