"""A linear map that losses train along with the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Float32Linear(nn.Linear):
    """`nn.Linear` that computes in float32 whatever its weights are kept in: DeepSpeed casts them with the student.

    In float64 where the weights or the inputs are. It has a forward pass of its own, so that DDP and ZeRO-3 see its
    weights being used.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, in float32 or wider."""
        dtype = torch.promote_types(self.weight.dtype, torch.promote_types(inputs.dtype, torch.float32))
        bias = None if self.bias is None else self.bias.to(dtype)
        return nn.functional.linear(inputs.to(dtype), self.weight.to(dtype), bias)
