"""How far the student's predictions are from the teacher's, row by row.

Each function takes the logits of both, ``[n, V]``, already divided by the temperature, and returns ``[n]`` in float32
(float64 for float64 logits). Gradients flow to the student only. p is the teacher's distribution, q the student's. A
teacher may exclude words with logits of -inf: values and gradients stay finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..batch.signals import IGNORE_INDEX
from . import sparse
from .papers import Paper
from .row_functions import row_loss
from .rowwise import as_float32, rowwise

DISTILLM = Paper("Ko et al.", 2024, name="DistiLLM", arxiv="2402.03898")


@row_loss(paper=Paper("Hinton, Vinyals and Dean", 2015, arxiv="1503.02531"), on_sparse=sparse.forward_kl)
def forward_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(p || q) = sum p (log p - log q): the student covers all that the teacher finds likely.

    Paper: Hinton, Vinyals and Dean (2015), arXiv:1503.02531; the trainer multiplies by the squared temperature.
    """

    def formula(_q: Tensor, log_q: Tensor, log_p: Tensor, _differentiate: bool) -> tuple[Tensor, Tensor]:
        p = log_p.exp()
        values = torch.linalg.vecdot(p, log_p.sub_(log_q))
        return values, p.neg_()

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=Paper("Gu et al.", 2024, name="MiniLLM", arxiv="2306.08543"), on_sparse=sparse.reverse_kl)
def reverse_kl(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(q || p) = sum q (log q - log p): the student avoids all that the teacher finds unlikely.

    A word that the teacher excludes costs 10^4 nats times the student's probability of it.

    Paper: Gu et al. (2024), MiniLLM, arXiv:2306.08543, eq. 1; here exact for each token, not from sampled sequences.
    """

    def formula(q: Tensor, log_q: Tensor, log_p: Tensor, _differentiate: bool) -> tuple[Tensor, Tensor]:
        # The derivative is log q - log p + 1; a softmax does not see the constant.
        weighted = log_q.sub_(log_p).mul_(q)
        return weighted.sum(-1), weighted

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=Paper("Agarwal et al.", 2024, name="GKD", arxiv="2306.13649"))
def jsd(student_logits: Tensor, teacher_logits: Tensor, *, beta: float = 0.5) -> Tensor:
    """Generalised Jensen-Shannon divergence, beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q.

    It goes to zero as beta goes to 0 or 1. Divided by beta it goes to the forward KL, by 1 - beta to the reverse KL.

    Args:
        student_logits: ``[n, V]``.
        teacher_logits: ``[n, V]``.
        beta: weight of the teacher, between 0 and 1, both excluded.

    Raises:
        ValueError: beta is out of range.

    Paper: Agarwal et al. (2024), GKD, arXiv:2306.13649, eq. 1.
    """
    if not 0 < beta < 1:
        raise ValueError(
            f"beta is {beta}; expected a number between 0 and 1. At the ends this divergence is zero, whatever the "
            "student predicts: use forward_kl (meant by beta=0) or reverse_kl (beta=1)."
        )

    def formula(q: Tensor, log_q: Tensor, log_p: Tensor, _differentiate: bool) -> tuple[Tensor, Tensor]:
        p = log_p.exp_()
        mixture = _mix(q, p, beta)
        values = beta * torch.linalg.vecdot(p, _log(torch.div(p, mixture, out=log_q)))
        # d/dq = (1 - beta) log(q / m), beside a constant
        weighted = _log(torch.div(q, mixture, out=log_q)).mul_(q).mul_(1 - beta)
        return values + weighted.sum(-1), weighted

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=DISTILLM)
def skewed_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1) -> Tensor:
    """KL(p || alpha p + (1 - alpha) q): a forward KL that stays bounded where the student predicts nothing.

    Args:
        student_logits: ``[n, V]``.
        teacher_logits: ``[n, V]``.
        alpha: share of the teacher in the mixture, between 0 and 1, both excluded.

    Raises:
        ValueError: alpha is out of range.

    Paper: Ko et al. (2024), DistiLLM, arXiv:2402.03898, section 3.1, with their alpha.
    """
    _check_alpha(alpha, unskewed="forward_kl")

    def formula(q: Tensor, log_q: Tensor, log_p: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        p = log_p.exp_()
        mixture = _mix(q, p, alpha)
        values = torch.linalg.vecdot(p, _log(torch.div(p, mixture, out=log_q)))
        # d/dq = -(1 - alpha) p / m
        return values, torch.div(q, mixture, out=log_q).mul_(p).mul_(alpha - 1) if differentiate else None

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=DISTILLM)
def skewed_reverse_kl(student_logits: Tensor, teacher_logits: Tensor, *, alpha: float = 0.1) -> Tensor:
    """KL(q || (1 - alpha) p + alpha q): a reverse KL that stays bounded where the teacher predicts nothing.

    Args:
        student_logits: ``[n, V]``.
        teacher_logits: ``[n, V]``.
        alpha: share of the student in the mixture, between 0 and 1, both excluded.

    Raises:
        ValueError: alpha is out of range.

    Paper: Ko et al. (2024), DistiLLM, arXiv:2402.03898, section 3.1, with their alpha.
    """
    _check_alpha(alpha, unskewed="reverse_kl")

    def formula(q: Tensor, log_q: Tensor, log_p: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        ratio = torch.div(q, _mix(log_p.exp_(), q, alpha), out=log_q)
        logarithm = _log(ratio.clone())
        values = torch.linalg.vecdot(q, logarithm)
        # d/dq = log(q / m) - alpha q / m, beside a constant
        return values, logarithm.sub_(ratio, alpha=alpha).mul_(q) if differentiate else None

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=Paper("Wen et al.", 2023, name="f-Distill", arxiv="2307.15190"))
def total_variation(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Total variation distance, 1/2 sum |p - q|, between 0 and 1.

    Paper: Wen et al. (2023), f-Distill, arXiv:2307.15190, section 2.2.
    """

    def formula(q: Tensor, _log_q: Tensor, log_p: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        difference = torch.sub(q, log_p.exp_(), out=log_p)
        values = difference.abs().sum(-1).mul_(0.5)
        return values, difference.sign_().mul_(q).mul_(0.5) if differentiate else None

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=None)
def hellinger(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Squared Hellinger distance, 1/2 sum (sqrt p - sqrt q)^2, between 0 and 1; smooth where the distance is not."""

    def formula(_q: Tensor, log_q: Tensor, log_p: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
        root_p, root_q = log_p.mul_(0.5).exp_(), log_q.mul_(0.5).exp_()
        values = (root_p - root_q).square_().sum(-1).mul_(0.5)
        # d/dq = 1/2 (1 - sqrt(p / q)), beside a constant
        return values, root_p.mul_(root_q).mul_(-0.5) if differentiate else None

    return rowwise(student_logits, teacher_logits, formula)


@row_loss(paper=Paper("Ba and Caruana", 2014, arxiv="1312.6184"), accepts_one_column=True)
def logit_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean over the vocabulary of the squared difference of the logits themselves; also right for regression.

    The temperature cancels, because values are multiplied by its square. Words that the teacher excludes do not count.

    Paper: Ba and Caruana (2014), arXiv:1312.6184, eq. 2; Kim et al. (2021), arXiv:2105.08919.
    """
    teacher = as_float32(teacher_logits.detach())
    difference = (as_float32(student_logits) - teacher).masked_fill(teacher == -torch.inf, 0.0)
    return difference.square().mean(-1)


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """-log q of the label, ``[n]``; zero where the label is `IGNORE_INDEX`: the usual loss of the task."""
    return torch.nn.functional.cross_entropy(
        as_float32(student_logits), labels, ignore_index=IGNORE_INDEX, reduction="none"
    )


def _check_alpha(alpha: float, *, unskewed: str) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; expected a number between 0 and 1 (0 is {unskewed}, 1 compares nothing).")


def _mix(first: Tensor, second: Tensor, share: float) -> Tensor:
    """(1 - share) first + share second, above zero, so that a part of it can be divided by it."""
    return torch.lerp(first, second, share).clamp_(min=torch.finfo(first.dtype).tiny)


def _log(ratio: Tensor) -> Tensor:
    """Logarithm in place; what is multiplied with it is zero where it would be infinite."""
    return ratio.clamp_(min=torch.finfo(ratio.dtype).tiny).log_()
