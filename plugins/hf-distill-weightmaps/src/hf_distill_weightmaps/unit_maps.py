"""How the units of a big model belong to those of a small one, and what that does to a tensor along one axis.

A unit is a position of the hidden state, an attention head, a neuron of a feed-forward network. `UnitMap.index` says
for each unit of the big model which one of the small model it is a copy of. Along an axis that a tensor *writes*
("out": rows of a linear layer, biases, norms, embeddings) growing copies units and shrinking averages them; along one
that it *reads* ("in": columns of a linear layer) growing splits a weight equally among the copies and shrinking sums
them. Both are products B W A with matrices of zeros and ones divided by counts (`UnitMap.matrix`), done by indexing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Role = Literal["in", "out"]


@dataclass(frozen=True)
class UnitMap:
    """A surjection from the units of a big model to those of a small one.

    Attributes:
        index: ``[big]`` int64, for each unit of the big model its unit of the small one.
        num_small: how many units the small model has; each occurs in `index`.
    """

    index: Tensor
    num_small: int

    def __post_init__(self) -> None:
        if self.counts.numel() != self.num_small or bool((self.counts == 0).any()):
            raise ValueError(f"A unit map must name each of the {self.num_small} units of the small model.")

    @property
    def counts(self) -> Tensor:
        """How many copies each unit of the small model has, ``[small]``."""
        return torch.bincount(self.index, minlength=self.num_small)

    @property
    def is_identity(self) -> bool:
        """Whether both models have the same units."""
        return len(self.index) == self.num_small and bool((self.index == torch.arange(self.num_small)).all())

    @property
    def is_balanced(self) -> bool:
        """Whether all units have the same number of copies, so that means over them stay what they are."""
        return bool((self.counts == self.counts[0]).all())

    @property
    def is_copy(self) -> Tensor:
        """Which units of the big model repeat an earlier one, ``[big]`` bool."""
        first = torch.full((self.num_small,), len(self.index)).scatter_reduce(
            0, self.index, torch.arange(len(self.index)), "amin"
        )
        return first[self.index] != torch.arange(len(self.index))

    def widened(self, width: int) -> UnitMap:
        """The map of positions, where each unit is `width` positions wide (a head)."""
        positions = self.index[:, None] * width + torch.arange(width)
        return UnitMap(positions.flatten(), self.num_small * width)

    def repeated(self, parts: int) -> UnitMap:
        """The map of an axis that holds the units `parts` times, one after the other (a fused projection)."""
        offsets = torch.arange(parts)[:, None] * self.num_small
        return UnitMap((self.index + offsets).flatten(), self.num_small * parts)

    def expand(self, tensor: Tensor, dim: int, role: Role) -> Tensor:
        """From the small model's tensor to the big one's, along one axis."""
        grown = tensor.index_select(dim, self.index.to(tensor.device))
        if role == "out":
            return grown
        return grown / _along(self.counts[self.index].to(grown), dim, grown.dim())

    def reduce(self, tensor: Tensor, dim: int, role: Role) -> Tensor:
        """From the big model's tensor to the small one's, along one axis."""
        shape = list(tensor.shape)
        shape[dim] = self.num_small
        summed = tensor.new_zeros(shape).index_add_(dim, self.index.to(tensor.device), tensor)
        if role == "in":
            return summed
        return summed / _along(self.counts.to(summed), dim, summed.dim())

    def matrix(self, role: Role, *, to: Literal["big", "small"]) -> Tensor:
        """The matrix by which a tensor is multiplied along an axis, ``[new, old]``."""
        eye = torch.eye(self.num_small if to == "big" else len(self.index))
        return self.expand(eye, 0, role) if to == "big" else self.reduce(eye, 0, role)


def cyclic(big: int, small: int) -> UnitMap:
    """Unit u of the big model is unit u mod `small`: balanced where `small` divides `big`."""
    return UnitMap(torch.arange(big) % small, small)


def drawn(big: int, small: int, generator: torch.Generator) -> UnitMap:
    """The units of the small model, then copies of units drawn at random."""
    more = torch.randint(small, (big - small,), generator=generator)
    return UnitMap(torch.cat([torch.arange(small), more]), small)


def _along(values: Tensor, dim: int, num_dims: int) -> Tensor:
    """`values` along one axis of `num_dims`, ready to be broadcast."""
    shape = [1] * num_dims
    shape[dim] = -1
    return values.reshape(shape)
