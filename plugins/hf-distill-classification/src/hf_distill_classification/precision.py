"""Numbers in the type that losses are computed in."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_LOWEST = -1e4  # log-probabilities below this count as this: what a teacher excludes with logits of -inf stays finite


def wide(tensor: Tensor) -> Tensor:
    """`tensor` in float32, or float64 where given so."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, with a floor."""
    return wide(logits).log_softmax(-1).clamp(min=_LOWEST)


class Linear(nn.Linear):
    """`nn.Linear` that computes in float32 whatever its weights are kept in; DeepSpeed casts them with the model."""

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        dtype = torch.promote_types(self.weight.dtype, torch.promote_types(inputs.dtype, torch.float32))
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(inputs.to(dtype), self.weight.to(dtype), bias)
