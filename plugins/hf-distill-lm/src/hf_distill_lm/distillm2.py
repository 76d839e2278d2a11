"""DistiLLM-2: forward on what the teacher wrote, backward on what the student wrote."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Paper, RowLoss, StepInfo, rowwise

TEACHER, STUDENT = 0, 1  # values of the column


class DistiLLM2(RowLoss):
    """Skewed KL on the teacher's answers, skewed reverse KL on the student's, by the column ``source``.

    With m = alpha p + (1 - alpha) q, and n = (1 - alpha) p + alpha q::

        source 0 (the teacher wrote it):  (2 - b) KL(p || m)
        source 1 (the student wrote it):  b KL(q || n)

    The first lifts what the teacher says, the second takes away what only the student says. b goes from 1 to
    `final_weight` over the first half of the run. Values are averaged over all tokens of both kinds.

    Args:
        alpha: share of the other model in the mixtures, between 0 and 1, both excluded.
        final_weight: b of the second half, from 1 (no curriculum, what the authors' code does by default) to 2; their
            ``gradual_beta`` is 1.5.

    Raises:
        ValueError: an option out of its range.

    Paper: Ko et al. (2025), DistiLLM-2, arXiv:2503.07067. Deviations: alpha is constant, as in the authors' released
        configuration; the curriculum that adapts it to how far an answer's likelihoods are apart needs whole answers,
        which no chunk of rows holds. Their code takes the student's part of n as constant; here it is differentiated,
        as by the formula.
    """

    paper = Paper("Ko et al.", 2025, name="DistiLLM-2", arxiv="2503.07067")
    columns = ("source",)
    clock: Tensor

    def __init__(self, *, alpha: float = 0.1, final_weight: float = 1.0) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ValueError(f"alpha is {alpha}; expected a number between 0 and 1.")
        if not 1 <= final_weight < 2:
            raise ValueError(f"final_weight is {final_weight}; expected a number from 1 to below 2.")
        self.alpha, self.final_weight = alpha, final_weight
        # Steps finished, and of the run: whole numbers, which engines in half precision leave alone.
        self.register_buffer("clock", torch.tensor([0, 1]))

    @property
    def weight(self) -> Tensor:
        """b, a float32 scalar."""
        progress = (2 * self.clock[0] / self.clock[1]).clamp(max=1.0)
        return 1 + (self.final_weight - 1) * progress

    def on_step_end(self, info: StepInfo) -> None:
        """Move the weight to what the next step is to use."""
        self.clock.copy_(torch.tensor([info.step, info.max_steps]))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, source: Tensor) -> Tensor:
        """Values by source, ``[n]``."""
        by_student = (source != TEACHER)[:, None]
        weight = torch.where(by_student[:, 0], self.weight, 2 - self.weight)

        def formula(q: Tensor, log_q: Tensor, log_p: Tensor, differentiate: bool) -> tuple[Tensor, Tensor | None]:
            p = log_p.exp_()
            tiny = torch.finfo(p.dtype).tiny
            share = torch.where(by_student, 1 - self.alpha, self.alpha).to(p.dtype)
            mixture = torch.lerp(q, p, share).clamp_(min=tiny)
            writer = torch.where(by_student, q, p)
            ratio = torch.div(writer, mixture, out=mixture)
            logarithm = torch.clamp(ratio, min=tiny, out=log_q).log_()
            values = torch.linalg.vecdot(writer, logarithm)
            if not differentiate:
                return values, None
            # d/dq: -(1 - alpha) p / m of the one, log(q / n) - alpha q / n of the other, beside a constant
            factor = torch.where(by_student, self.alpha, 1 - self.alpha).to(p.dtype)
            return values, logarithm.mul_(by_student).addcmul_(ratio, factor, value=-1).mul_(q)

        return rowwise(student_logits, teacher_logits, formula) * weight
