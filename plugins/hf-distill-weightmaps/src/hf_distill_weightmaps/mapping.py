"""From two shapes to the source of every tensor of a student: the engine that growing and coalescing share.

    maps = unit_maps(small, big)
    expand(tensor, axes, maps)  # B W A, from the small model to the big one
    reduce(tensor, axes, maps)  # and from the big one to the small one

The matrices are never made: a map is an index, see `hf_distill_weightmaps.unit_maps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .families import Axis, Kind, Sizes
from .unit_maps import UnitMap, cyclic, drawn

Maps = Mapping[Kind, UnitMap]


def unit_maps(small: Sizes, big: Sizes, *, seed: int | None = None) -> Maps:
    """How the units of every axis of the big model belong to those of the small one.

    Key-value heads take their query heads along: query head h of the big model belongs to a query head of the
    key-value head that its own belongs to.

    Args:
        small: the small model.
        big: the big model.
        seed: copies units drawn at random; without it the map is cyclic, balanced where sizes divide each other.

    Raises:
        ValueError: the big model is smaller somewhere, or has other heads.
    """
    for name in ("hidden", "heads", "key_value_heads", "intermediate"):
        if getattr(big, name) < getattr(small, name):
            raise ValueError(
                f"{name} of the big model is {getattr(big, name)}, of the small one {getattr(small, name)}; the big "
                "one has at least as many."
            )
    big_share, small_share = big.heads // big.key_value_heads, small.heads // small.key_value_heads
    if big_share < small_share:
        raise ValueError(
            f"In the big model {big_share} query heads share a key-value head, in the small one {small_share}; give "
            "key_value_heads so that it is not fewer in the big one."
        )
    generator = torch.Generator().manual_seed(seed) if seed is not None else None

    def choose(in_big: int, in_small: int) -> UnitMap:
        return cyclic(in_big, in_small) if generator is None else drawn(in_big, in_small, generator)

    key_value = choose(big.key_value_heads, small.key_value_heads)
    query = torch.arange(big.heads)
    index = key_value.index[query // big_share] * small_share + (query % big_share) % small_share
    return {
        "hidden": choose(big.hidden, small.hidden),
        "key_value_heads": key_value.widened(small.head_width),
        "heads": UnitMap(index, small.heads).widened(small.head_width),
        "intermediate": choose(big.intermediate, small.intermediate),
    }


def expand(tensor: Tensor, axes: Sequence[Axis], maps: Maps) -> Tensor:
    """The big model's tensor from the small one's: what is written is copied, what is read is split."""
    for dim, axis in enumerate(axes):
        if (own := _map(axis, maps)) is not None:
            tensor = own.expand(tensor, dim, axis.role)  # type: ignore[arg-type]  # "head" was resolved
    return tensor


def reduce(tensor: Tensor, axes: Sequence[Axis], maps: Maps) -> Tensor:
    """The small model's tensor from the big one's: what is written is averaged, what is read is summed."""
    for dim, axis in enumerate(axes):
        if (own := _map(axis, maps)) is not None:
            tensor = own.reduce(tensor, dim, axis.role)  # type: ignore[arg-type]
    return tensor


def mix(own: Tensor, following: Tensor, axes: Sequence[Axis], maps: Maps) -> Tensor:
    """`own`, but in the copies of a unit along written axes of heads and neurons, which are those of `following`."""
    for dim, axis in enumerate(axes):
        if is_mixed(axis) and (units := _map(axis, maps)) is not None:
            shape = [1] * own.dim()
            shape[dim] = -1
            own = torch.where(units.is_copy.to(own.device).reshape(shape), following, own)
    return own


def is_mixed(axis: Axis) -> bool:
    """Whether advanced initialisation takes the copies along an axis from the next block."""
    return axis.role == "out" and axis.kind in ("heads", "key_value_heads", "intermediate")


def changes(axes: Sequence[Axis], maps: Maps) -> bool:
    """Whether a tensor with these axes differs between the two models."""
    return any(_map(axis, maps) is not None for axis in axes)


def _map(axis: Axis, maps: Maps) -> UnitMap | None:
    own = maps.get(axis.kind)
    return None if own is None or own.is_identity else own.repeated(axis.parts)
