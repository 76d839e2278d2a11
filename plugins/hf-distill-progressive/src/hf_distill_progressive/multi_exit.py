"""Self-distillation of a student with several exits: every depth learns the task, the deeper the more.

Shape letters: B examples, S positions, H width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Float32Linear, Paper, Signal, as_float32, hidden_width, num_blocks

from .examples import labels_of

POOLINGS = ("mean", "first")
# 4, 9, 18 and 27 of the 36 blocks of ModularStarEncoder.
SHARES = (1 / 9, 1 / 4, 1 / 2, 3 / 4)


class MultiExit(BatchLoss):
    """Cross-entropy with the labels at heads on some of the student's blocks: ``sum_i (i / N) CE_i``.

    i is the number of blocks below the exit, N that of all blocks. The student's own head is the last exit, with weight
    1: name `task` beside this loss. Nothing compares the exits with each other; deep ones teach shallow ones through
    the blocks that they share. Heads are this loss's parameters: they are trained and resumed with the student and kept
    beside the exported model, in its ``distillation_losses.safetensors``.

    After the paper's description: ModularStarEncoder 2025, arXiv:2503.03008. Deviations: the task is classification,
    where the paper has masked tokens or a contrast of pairs, and every exit has a linear head of its own.

    Args:
        exits: how many blocks lie below each exit; by default the paper's shares of the depth.
        pooling: how positions become one vector, "mean" or "first".

    Raises:
        ValueError: an unknown pooling, or no exits.
    """

    paper = Paper("ModularStarEncoder", 2025, name="ModularStarEncoder", arxiv="2503.03008")
    items = "rows"
    needs_teacher = False

    def __init__(self, *, exits: Sequence[int] | None = None, pooling: str = "mean") -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if exits is not None and not exits:
            raise ValueError("exits is empty; expected how many blocks lie below each exit, [1, 2] for instance.")
        self.exits = None if exits is None else tuple(exits)
        self.pooling = pooling

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Make a head for each exit.

        Raises:
            ValueError: the student is no classifier, or has too few blocks.
        """
        config: Any = getattr(student, "config", None)
        if "Classification" not in type(student).__name__:
            raise ValueError(f"multi_exit is for classifiers of examples, but the student is {type(student).__name__}.")
        depth = num_blocks(student)
        exits = self.exits or sorted({max(1, round(share * depth)) for share in SHARES} - {depth})
        if not exits or not all(0 < exit < depth for exit in exits) or len(set(exits)) < len(exits):
            raise ValueError(f"exits is {list(exits)}; expected different numbers from 1 to {depth - 1}.")
        self.weights = {f"exit{exit}": exit / depth for exit in exits}
        self.student_taps = tuple(f"hidden.{exit}" for exit in exits)
        self.heads = nn.ModuleDict(
            {name: Float32Linear(hidden_width(student), config.num_labels) for name in self.weights}
        )

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> dict[str, Tensor]:
        """The weighted sums over the examples with a label, by exit.

        Raises:
            ValueError: there are no labels.
        """
        labels, present = labels_of(batch, "multi_exit")
        sums = {}
        with torch.autocast(present.device.type, enabled=False):
            for (name, weight), tap in zip(self.weights.items(), self.student_taps, strict=True):
                logits = self.heads[name](pool(student.features[tap], batch.token_mask, self.pooling))
                values = nn.functional.cross_entropy(logits, labels, reduction="none")
                sums[name] = weight * torch.where(present, values, 0).sum()
        return sums


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One vector an example: ``[B, S, H]`` to ``[B, H]``, in float32; a mask ``[B]`` means all positions."""
    hidden = as_float32(hidden)
    if pooling == "first":
        return hidden[:, 0]
    if mask.dim() == 1:
        return hidden.mean(1)
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
