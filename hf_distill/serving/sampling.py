"""Sampling in which every row of a batch draws from a generator of its own.

`generate` draws all rows from one global generator, so that an answer would depend on which prompts stood beside it and
on how often the training drew before; and the training would draw differently after it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class SeededSampling(LogitsProcessor):
    """Adds Gumbel noise to the logits, so that the largest of them is a sample of their softmax (the Gumbel-max trick).

    Args:
        seeds: one for each row of the batch.
        device: of the logits; numbers differ between kinds of devices.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.generators = [torch.Generator(device=device).manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`scores` [batch, vocabulary] in float32 with the noise of each row."""
        noise = torch.stack([_exponential(scores[row], generator) for row, generator in enumerate(self.generators)])
        return scores.float() - noise.log()


def _exponential(like: Tensor, generator: torch.Generator) -> Tensor:
    """Draws of the exponential distribution, whose negative logarithm is Gumbel's; never 0."""
    draws = torch.empty(like.shape, device=like.device, dtype=torch.float32).exponential_(generator=generator)
    return draws.clamp_min(torch.finfo(torch.float32).tiny)
