"""Gradients against finite differences, along random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .verdicts import require

_DIRECTIONS = 4


def check_gradients(
    value: Callable[[], Tensor], leaves: Sequence[Tensor], gradients: Sequence[Tensor], *, what: str
) -> None:
    """Compare `gradients` with central differences of `value`, leaf by leaf.

    Args:
        value: computes the scalar from the leaves as they are now.
        leaves: float64 tensors; moved in place, and put back.
        gradients: what is checked, one for each leaf.
        what: says where, in the message.

    Raises:
        AssertionError: a directional derivative differs.
    """
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        # A loss that computes in float32 can be asked for as many digits only.
        step, tolerance = (1e-6, 1e-5) if value().dtype == torch.float64 else (2e-3, 1e-2)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            kept = leaf.clone()
            for _ in range(_DIRECTIONS):
                direction = torch.randn(leaf.shape, generator=generator, dtype=leaf.dtype)
                ends = []
                for sign in (1, -1):
                    leaf.copy_(kept + sign * step * direction)
                    ends.append(value().item())
                leaf.copy_(kept)
                expected = (ends[0] - ends[1]) / (2 * step)
                found = (gradient * direction).sum().item()
                allowed = tolerance * max(gradient.norm().item(), abs(expected)) + 1e-9
                require(
                    abs(found - expected) <= allowed,
                    f"{what}: along a random direction the gradient says {found:.6g}, finite differences "
                    f"{expected:.6g}.",
                )
