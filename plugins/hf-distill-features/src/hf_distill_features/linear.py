"""A linear map of a loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Linear(nn.Linear):
    """`nn.Linear` that computes in float32 whatever its weights are kept in; DeepSpeed casts them with the model."""

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``."""
        dtype = torch.promote_types(self.weight.dtype, inputs.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(inputs.to(dtype), self.weight.to(dtype), bias)
