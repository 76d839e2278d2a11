"""MI-alpha: a lower bound of the mutual information between the student's and the teacher's view of an example.

Shape letters: B examples, n of them that count, D width of the critic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Float32Linear, Paper, hidden_width

from .pooled import PooledLoss, masked_mean, pairs_of

BASELINES = ("learned", "constant")


class MIAlpha(PooledLoss):
    """Maximises the interpolated bound I_alpha of the mutual information; the value is ``-I_alpha`` in nats.

    The critic ``f(x, y)`` is the inner product of a linear map of the student's vector x and one of the teacher's y,
    over the square root of their width. The other examples of the micro-batch are the samples of the marginal: with n
    of them, alpha = 1 is InfoNCE (low variance, at most log(n - 1)), alpha = 0 is TUBA (unbounded, high variance).

    After the paper's description: Distiller (He et al. 2021, arXiv:2109.11105), MI-alpha; the bound is that of Poole et
    al. 2019, arXiv:1905.06922, estimated by leaving examples out, so that joint and marginal term both see
    n - 1 students. Form and width of the critic, and of the baseline, are ours.

    Args:
        alpha: between the low-variance bound (1) and the unbiased one (0).
        critic_width: D.
        baseline: ``log a(y)`` is "learned", a linear map of the teacher's vector, or "constant", 1 (then alpha = 0 is
            the bound of Nguyen, Wainwright and Jordan).
        layers: pairs of blocks, each with a critic of its own; see `PooledLoss`, also for what a batch is.
        pooling: see `PooledLoss`; not "flatten".
        stack: see `PooledLoss`.

    Raises:
        ValueError: an option out of its range.
    """

    paper = Paper(
        "He et al.",
        2021,
        title="Distiller: A Systematic Study of Model Distillation Methods in Natural Language Processing",
        name="MI-alpha",
        arxiv="2109.11105",
    )

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        critic_width: int = 128,
        baseline: str = "learned",
        layers: str | Sequence[Sequence[int]] = ((-1, -1),),
        pooling: str = "mean",
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, pooling=pooling, stack=stack)
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; expected a number from 0 to 1.")
        if baseline not in BASELINES:
            raise ValueError(f"baseline is {baseline!r}; expected one of {', '.join(BASELINES)}.")
        if pooling == "flatten":
            raise ValueError('pooling is "flatten", whose width changes with the length; expected mean, first or last.')
        self.alpha = alpha
        self.critic_width = critic_width
        self.baseline = baseline
        self.student_maps, self.teacher_maps, self.baselines = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the layers and make a critic for each pair.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        super().setup(student, teacher, tokenizer)
        assert teacher is not None  # checked above
        widths = hidden_width(student, self.stack or ""), hidden_width(teacher, self.stack or "")
        self.student_maps = nn.ModuleList(Float32Linear(widths[0], self.critic_width) for _ in self.pairs)
        self.teacher_maps = nn.ModuleList(Float32Linear(widths[1], self.critic_width) for _ in self.pairs)
        if self.baseline == "learned" and self.alpha < 1:  # DDP refuses parameters that nothing reads
            self.baselines = nn.ModuleList(Float32Linear(widths[1], 1) for _ in self.pairs)
            for parameter in self.baselines.parameters():  # starts as the constant one
                nn.init.constant_(parameter, float(parameter.dim() == 1))

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """Minus the bound."""
        student_vectors, teacher_vectors = self.student_maps[pair](student), self.teacher_maps[pair](teacher)
        constant = teacher.new_ones(len(teacher))
        log_baseline = self.baselines[pair](teacher).squeeze(1) if len(self.baselines) else constant
        return -interpolated_bound(
            teacher_vectors @ student_vectors.T / self.critic_width**0.5, log_baseline, self.alpha, present
        )


def interpolated_bound(scores: Tensor, log_baseline: Tensor, alpha: float, present: Tensor) -> Tensor:
    """I_alpha in nats, a scalar; 0 where fewer than two examples are present.

    ``1 + E_joint[f(x, y) - log(alpha m + (1 - alpha) a(y))] - E_marginal[exp f(x, y) / (alpha m + (1 - alpha) a(y))]``
    with m the mean of ``exp f(., y)`` over n - 1 examples: in the marginal term all but y's own, in the joint term all
    but one other, and the mean over which one.

    Args:
        scores: ``f(x_j, y_i)`` as [i, j], ``[B, B]``.
        log_baseline: ``log a(y_i)``, ``[B]``.
        alpha: from 0 to 1.
        present: which examples there are, boolean ``[B]``.
    """
    same_example = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    pairs, joint_scores = pairs_of(present), scores.diagonal()
    log_num_others = (present.sum() - 1).clamp_min(1).to(scores.dtype).log()
    log_total = _log_sum(scores, pairs)
    # The sum without one other example; at least y's own term, which rounding could take away.
    shares = (torch.where(pairs, scores, log_total[:, None]) - log_total[:, None]).exp().clamp(max=1 - 1e-6)
    log_rest = torch.maximum(log_total[:, None] + torch.log1p(-shares), joint_scores[:, None])
    log_others = _log_sum(scores, pairs & ~same_example)

    def interpolate(log_mean: Tensor, log_constant: Tensor) -> Tensor:
        if alpha in (0, 1):
            return log_mean if alpha == 1 else log_constant.expand_as(log_mean)
        return torch.logaddexp(log_mean + math.log(alpha), log_constant + math.log(1 - alpha))

    log_joint = interpolate(log_rest - log_num_others, log_baseline[:, None])
    joint = masked_mean(joint_scores[:, None] - log_joint, pairs & ~same_example)
    log_mean = log_others - log_num_others
    marginal = masked_mean((log_mean - interpolate(log_mean, log_baseline)).exp(), present)
    return torch.where(present.sum() > 1, 1 + joint - marginal, 0)


def _log_sum(scores: Tensor, mask: Tensor) -> Tensor:
    """Logarithm of the sum of exponentials of each row's true entries; of anything finite where it has none."""
    mask = mask | ~mask.any(1, keepdim=True)
    return scores.masked_fill(~mask, -math.inf).logsumexp(1)
