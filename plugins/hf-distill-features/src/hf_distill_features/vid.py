"""Variational information distillation: the teacher's features as a Gaussian around what the student predicts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import FeatureLoss, Float32Linear, Paper, as_float32, hidden_width

_MIN_VARIANCE = 1e-5


class VID(FeatureLoss):
    """Negative log-likelihood of the teacher's hidden states, up to a constant, as the student predicts them.

    Per token the mean over the teacher's width of ``((mean - h_t)^2 / variance + log variance) / 2``: the mean is
    predicted from the student's hidden state by three linear maps with ReLU between them, one variance for each
    component is learnt. Negative once the prediction is good.

    Paper: Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", arXiv:1904.05835, with
    the official code's three maps, ``log(1 + exp(.))`` and smallest variance. On tokens, not on pixels.

    Args:
        initial_variance: where the variances start.
        layers: pairs of blocks, by default the last ones; see `FeatureLoss`.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.

    Raises:
        ValueError: the variance is too small.
    """

    paper = Paper(
        "Ahn et al.",
        2019,
        title="Variational Information Distillation for Knowledge Transfer",
        name="VID",
        arxiv="1904.05835",
    )

    def __init__(
        self,
        *,
        initial_variance: float = 5.0,
        layers: str | Sequence[Sequence[int]] = ((-1, -1),),
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, stack=stack)
        if not initial_variance > _MIN_VARIANCE:
            raise ValueError(f"initial_variance is {initial_variance}; expected more than {_MIN_VARIANCE}.")
        self.initial_variance = initial_variance
        self.regressors = nn.ModuleList()

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the layers and make what predicts them.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        super().setup(student, teacher, tokenizer)
        assert teacher is not None  # checked above
        widths = hidden_width(student, self.stack or ""), hidden_width(teacher, self.stack or "")
        self.regressors = nn.ModuleList(Gaussian(*widths, self.initial_variance) for _ in self.pairs)

    def tap_names(self, block: int) -> tuple[str, ...]:
        """The output of a block."""
        return (f"{self.prefix}hidden.{block + 1}",)

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """The negative log-likelihood of all tokens."""
        mean, variance = self.regressors[pair](student[0][mask])
        return gaussian_nll(mean, variance, teacher[0][mask])


class Gaussian(nn.Module):
    """Mean and variance of the teacher's vector, from the student's."""

    def __init__(self, student_width: int, teacher_width: int, variance: float) -> None:
        super().__init__()
        widths = [(student_width, teacher_width), (teacher_width, teacher_width), (teacher_width, teacher_width)]
        first, second, third = (Float32Linear(*pair, bias=False) for pair in widths)
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        start = math.log(math.expm1(variance - _MIN_VARIANCE))
        self.log_scale = nn.Parameter(torch.full((teacher_width,), start))

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """``[..., student width]`` to the mean ``[..., teacher width]`` and the variances ``[teacher width]``."""
        scale = as_float32(self.log_scale)
        return self.mean(hidden), nn.functional.softplus(scale) + _MIN_VARIANCE


def gaussian_nll(mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
    """``-log N(target; mean, variance)`` without its constant, mean over the last dimension."""
    return ((mean - target).square() / variance + variance.log()).mean(-1) / 2
