"""The two Kullback-Leibler divergences on a sparse teacher, without writing its distribution out.

All columns that were not kept have one probability, u, so that sums over them follow from sums over the whole
vocabulary and over the k columns that were kept. Values and gradients equal those of the dense loss on
`SparseRows.logits`.
"""

from __future__ import annotations

from torch import Tensor

from ..batch.signals import SparseRows
from .rowwise import LOWEST, of_student


def forward_kl(student_logits: Tensor, teacher: SparseRows) -> Tensor:
    """KL(p || q) = sum over all v of p_v (log p_v - log q_v), ``[n]``.

    Args:
        student_logits: ``[n, V]``, already divided by the temperature.
        teacher: n rows over the same V columns, at the same temperature.
    """
    ids, used, log_p, log_u = _kept(teacher)
    p, u = log_p.exp(), log_u.exp()
    negative_entropy = (p * log_p).sum(-1) + teacher.tail.exp() * log_u
    excess = (p - u[:, None]) * used

    def formula(_q: Tensor, log_q: Tensor, _differentiate: bool) -> tuple[Tensor, Tensor]:
        cross_entropy = -u * log_q.sum(-1) - (excess * log_q.gather(-1, ids)).sum(-1)
        # q times the derivative is -p
        weighted = log_q.copy_(-u[:, None].expand_as(log_q)).scatter_add_(-1, ids, -excess)
        return negative_entropy + cross_entropy, weighted

    return of_student(student_logits, formula)


def reverse_kl(student_logits: Tensor, teacher: SparseRows) -> Tensor:
    """KL(q || p) = sum over all v of q_v (log q_v - log p_v), ``[n]``; arguments as `forward_kl`.

    Without a tail the teacher excludes what was not kept: that costs 10^4 nats times the student's probability of it.
    """
    ids, used, log_p, log_u = _kept(teacher)
    excess = (log_p - log_u[:, None]) * used

    def formula(q: Tensor, log_q: Tensor, _differentiate: bool) -> tuple[Tensor, Tensor]:
        weighted = log_q.sub_(log_u[:, None]).mul_(q).scatter_add_(-1, ids, -q.gather(-1, ids) * excess)
        return weighted.sum(-1), weighted

    return of_student(student_logits, formula)


def _kept(teacher: SparseRows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Columns that can be gathered and which of them count, ``[n, k]``; log p of these; log u, ``[n]``."""
    used = teacher.ids < teacher.vocab_size
    ids = teacher.ids.where(used, 0)
    return ids, used, teacher.log_probs.clamp(min=LOWEST), teacher.spread.clamp(min=LOWEST)
