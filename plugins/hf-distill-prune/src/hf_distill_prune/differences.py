"""What fine-tuning changed, as sparse vectors that can be added up; pure functions and their file.

    found = difference(tuned.state_dict(), base.state_dict())
    save_difference(found, "german.safetensors")
    added(base.state_dict(), [load_difference("german.safetensors"), load_difference("tagging.safetensors")])

Paper: Ansell et al. 2022, "Composable Sparse Fine-Tuning for Cross-Lingual Transfer" (LT-SFT), arXiv:2110.07560.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hf_distill import as_float32

Tensors = Mapping[str, Tensor]
Difference = Mapping[str, tuple[Tensor, Tensor]]
"""By tensor: where it changed (places in the flattened tensor, int64), and by how much (float32 or wider)."""

_INDICES, _VALUES = ".indices", ".values"


def largest_changes(tuned: Tensors, base: Tensors, count: int) -> dict[str, Tensor]:
    """Masks of the `count` parameters that changed most in absolute value, over all tensors together.

    Args:
        tuned: tensors after training.
        base: the same before.
        count: how many; of equal ones, so many are taken that it is exact.

    Returns:
        For each tensor of `base` a boolean mask of its shape; `count` are True in all.

    Raises:
        ValueError: other names or shapes, or a count beyond the number of parameters.
    """
    _check(tuned, base)
    changes = torch.cat([_wide(tuned[name] - one.to(tuned[name].device)).abs().flatten() for name, one in base.items()])
    if not 0 <= count <= len(changes):
        raise ValueError(f"count is {count}; there are {len(changes)} parameters to choose from.")
    chosen = torch.zeros(len(changes), dtype=torch.bool, device=changes.device)
    chosen[changes.topk(count).indices] = True
    parts = chosen.split([one.numel() for one in base.values()])
    return {name: part.view(one.shape) for (name, one), part in zip(base.items(), parts, strict=True)}


def difference(tuned: Tensors, base: Tensors) -> dict[str, tuple[Tensor, Tensor]]:
    """Where `tuned` differs from `base`, and by how much; tensors that are equal are left out.

    Raises:
        ValueError: other names or shapes.
    """
    _check(tuned, base)
    found = {}
    for name, before in base.items():
        change = (_wide(tuned[name]) - _wide(before)).flatten()
        places = change.nonzero().flatten()
        if len(places):
            found[name] = (places, change[places])
    return found


def added(base: Tensors, differences: Iterable[Difference]) -> dict[str, Tensor]:
    """`base` and all differences in sum, in the dtype of `base`; which one comes first does not matter.

    Raises:
        ValueError: a difference of a tensor that `base` lacks, or beyond its end.
    """
    sums = {name: _wide(one).clone().flatten() for name, one in base.items()}
    for one in differences:
        for name, (places, values) in one.items():
            if name not in sums or (len(places) and int(places.max()) >= len(sums[name])):
                raise ValueError(f"The difference changes {name!r} where the model has nothing; is it of this model?")
            sums[name].index_add_(0, places.to(sums[name].device), values.to(sums[name]))
    return {name: sums[name].view(one.shape).to(one.dtype) for name, one in base.items()}


def save_difference(found: Difference, path: str | os.PathLike[str]) -> None:
    """Write a difference as safetensors."""
    tensors = {name + _INDICES: places for name, (places, _) in found.items()}
    save_file(tensors | {name + _VALUES: values.contiguous() for name, (_, values) in found.items()}, path)


def load_difference(path: str | os.PathLike[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Read what `save_difference` wrote."""
    tensors = load_file(path)
    names = [name.removesuffix(_INDICES) for name in tensors if name.endswith(_INDICES)]
    return {name: (tensors[name + _INDICES], tensors[name + _VALUES]) for name in names}


def _wide(tensor: Tensor) -> Tensor:
    return as_float32(tensor.detach())


def _check(tuned: Tensors, base: Tensors) -> None:
    odd = [name for name in base if name not in tuned or tuned[name].shape != base[name].shape]
    if odd:
        raise ValueError(f"The tuned model lacks {odd[:5]}, or has them in another shape; is it tuned from this base?")
