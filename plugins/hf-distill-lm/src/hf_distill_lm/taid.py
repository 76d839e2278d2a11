"""TAID: a teacher that begins near the student and moves to the real one while the student learns."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.utils import logging

from hf_distill import Paper, RowLoss, StepInfo, forward_kl

logger = logging.get_logger(__name__)

_EXCLUDED = -1e4  # stands for logits of -inf, which cannot be mixed


class TAID(RowLoss):
    """KL(p_t || q) with ``p_t = softmax((1 - t) z_student + t z_teacher)``, the student's part taken as constant.

    t goes from `t_start` to `t_end`, at least linearly over the run. With `adaptive`, it moves faster while the loss
    falls; after each optimizer step, with J the loss's mean over that step, all micro-batches and processes::

        delta = (J_previous - J) / J_previous
        momentum = beta momentum + (1 - beta) delta
        t = min(t_end, max(linear, t + alpha sigmoid(momentum) (1 - t)))

    The adaptive term is at most ``alpha (1 - t) sigmoid(1)``, mostly about half of ``alpha (1 - t)``: in runs shorter
    than 2 (t_end - t_start) / (alpha (1 - t_start)) steps, 4,000 with the defaults, it stays below the linear way. A
    larger `alpha` changes that; a warning says so.

    Args:
        t_start: t of the first step.
        t_end: t of the last.
        adaptive: False moves linearly.
        alpha: size of the adaptive steps.
        beta: share of the old momentum that stays.

    Attributes:
        t: the share of the teacher, a float32 scalar.

    Raises:
        ValueError: an option out of its range.

    Paper: Shing et al. (2025), TAID, arXiv:2501.16937, eq. 3, eq. 5 and 6, Algorithm 1. The authors' code reports the
        cross-entropy -sum p_t log q, whose gradient is the same; J here is the KL of the paper. That code also moves t
        after each micro-batch, on each process by its own loss; here t moves once per optimizer step, equally on all.
    """

    paper = Paper("Shing et al.", 2025, name="TAID", arxiv="2501.16937")
    state: Tensor

    def __init__(
        self,
        *,
        t_start: float = 0.4,
        t_end: float = 1.0,
        adaptive: bool = True,
        alpha: float = 5e-4,
        beta: float = 0.99,
    ) -> None:
        super().__init__()
        if not 0 <= t_start < t_end <= 1:
            raise ValueError(f"t goes from {t_start} to {t_end}; expected 0 <= t_start < t_end <= 1.")
        if not alpha >= 0 or not 0 <= beta < 1:
            raise ValueError(f"alpha is {alpha}, beta {beta}; expected alpha of at least 0 and 0 <= beta < 1.")
        self.t_start, self.t_end, self.adaptive, self.alpha, self.beta = t_start, t_end, adaptive, alpha, beta
        # t, J of the last step, momentum: kept as bits, since engines in half precision would round floats.
        self.register_buffer("state", torch.tensor([t_start, torch.inf, 0.0]).view(torch.int32))

    @property
    def t(self) -> Tensor:
        """The teacher's share."""
        return self.state.view(torch.float32)[0]

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """KL(p_t || q), ``[n]``."""
        t = self.t.to(torch.promote_types(student_logits.dtype, torch.float32))
        student_share = student_logits.detach() * (1 - t[None, None])
        return forward_kl(
            student_logits, student_share.addcmul_(teacher_logits.detach().to(t.dtype).clamp(min=_EXCLUDED), t)
        )

    def on_step_end(self, info: StepInfo) -> None:
        """Move t to what the next step is to use."""
        t, previous, momentum = self.state.view(torch.float32).tolist()
        linear = self.t_start + (self.t_end - self.t_start) * min(info.step / info.max_steps, 1.0)
        loss = info.losses.get(self.label)
        if not self.adaptive or loss is None:
            t = max(linear, t)
        elif previous == float("inf"):
            self._warn_if_inert(info.max_steps)
            previous = loss
        else:
            momentum = self.beta * momentum + (1 - self.beta) * (previous - loss) / (previous + 1e-15)
            t = max(linear, t + self.alpha * _sigmoid(momentum) * (1 - t))
            previous = loss
        t = min(self.t_end, t)
        self.state.copy_(torch.tensor([t, previous, momentum]).view(torch.int32))

    def _warn_if_inert(self, max_steps: int) -> None:
        needed = 2 * (self.t_end - self.t_start) / max(self.alpha * (1 - self.t_start), 1e-15)
        if max_steps < needed:
            logger.warning_once(
                f"TAID's adaptive term does not show: with alpha={self.alpha:g} it is slower than the linear way in "
                f"runs of fewer than about {needed:.0f} steps, and this one has {max_steps}. Set alpha to about "
                f"{self.alpha * needed / max_steps:.2g} or more, or adaptive=False."
            )


def _sigmoid(value: float) -> float:
    return float(torch.sigmoid(torch.tensor(value, dtype=torch.float64)))
