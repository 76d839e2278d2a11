"""What is kept of a teacher's predictions: the k most likely columns, as many as cover enough, or some drawn by chance.

Shape letters: n rows, m of them at a time, V vocabulary, k slots.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..batch.signals import Rows
from ..models.heads import without_hooks
from .rows import TokenRows

_BYTES = 128 * 2**20


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """How much is kept of each position.

    Attributes:
        k: columns at most.
        coverage: fewer columns where these already have this share of the probability; None for always k.
        draws: instead of the most likely columns, those that so many draws from the distribution hit, each with its
            share of the draws: an unbiased sample, tail included (RS-KD, Anshumann et al. 2025, arXiv:2503.16870, with
            importance exponent 1). At most k different ones are hit.

    Raises:
        ValueError: an option out of its range, or two ways at once.
    """

    k: int = 32
    coverage: float | None = None
    draws: int | None = None

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"k is {self.k}; expected at least one column.")
        if self.coverage is not None and not 0 < self.coverage < 1:
            raise ValueError(f"coverage is {self.coverage}; expected a share of the probability between 0 and 1.")
        if self.draws is not None and not (1 <= self.draws <= self.k and self.coverage is None):
            raise ValueError(
                f"draws is {self.draws}, beside k {self.k} and coverage {self.coverage}; expected 1 to k draws and no "
                "coverage, since what draws hit is kept."
            )

    def __call__(self, rows: Rows, following: Tensor, *, seed: int = 0) -> TokenRows:
        """The kept part of `rows`.

        Args:
            rows: selected rows of a teacher, n of them.
            following: the token after each position, ``[n]``; -1 where there is none.
            seed: decides what is drawn, together with the rows' order.
        """
        head = rows.head
        width = head.vocab_size if head is not None else rows.tensor.shape[-1]
        generator = torch.Generator(rows.tensor.device).manual_seed(seed)
        size = max(1, _BYTES // (16 * width))
        parts = []
        with torch.no_grad(), head.gathered() if head else nullcontext(), without_hooks(head and head.module):
            for start in range(0, len(following), size):
                logits = rows.tensor[start : start + size]
                log_p = (head.project(logits) if head else logits).float().log_softmax(-1)
                parts.append([one.cpu() for one in self._chunk(log_p, following[start : start + size], generator)])
        if not parts:
            nothing: Any = np.zeros((0, min(self.k, width)))
            return TokenRows(nothing, nothing, nothing[:, 0], nothing[:, 0], nothing[:, 0])
        return TokenRows(*(torch.cat(one).numpy() for one in zip(*parts, strict=True)))

    def _chunk(self, log_p: Tensor, following: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Ids, log-probabilities, tail, target and entropy of m rows, from their log-probabilities ``[m, V]``."""
        p = log_p.exp()
        entropy = -(p * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)
        target = log_p.gather(-1, following.clamp(min=0)[:, None])[:, 0].masked_fill(following < 0, math.nan)
        slots = min(self.k, log_p.shape[-1])
        if self.draws is not None:
            drawn = torch.multinomial(p, self.draws, replacement=True, generator=generator)
            counts, ids = torch.zeros_like(p).scatter_add_(-1, drawn, torch.ones_like(drawn, dtype=p.dtype)).topk(slots)
            log_probs, unused = (counts / self.draws).log(), counts == 0
        else:
            log_probs, ids = log_p.topk(slots)
            before = log_probs.exp().cumsum(-1) - log_probs.exp()
            unused = before >= (self.coverage or math.inf)
        ids, log_probs = ids.masked_fill(unused, log_p.shape[-1]), log_probs.masked_fill(unused, -math.inf)
        tail = torch.nn.functional.pad(log_p, (0, 1)).scatter(-1, ids, -math.inf)[:, :-1].logsumexp(-1)
        if self.draws is not None:
            tail = torch.full_like(tail, -math.inf)  # what was drawn stands for it
        return ids, log_probs, tail, target, entropy
