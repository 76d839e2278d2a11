"""The tensors of a teacher by name, read one at a time: from a model, or from the files of a checkpoint.

    weights = CheckpointWeights(files, skeleton)
    weights["model.layers.0.mlp.up_proj.weight"]

Names are those of the model's state dict, whatever the files call them.
"""

from __future__ import annotations

import contextlib
import copy
import os
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
from transformers.integrations import deepspeed as zero
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files


class Weights(ABC):
    """Tensors by the names that a model's state dict has."""

    @abstractmethod
    def __getitem__(self, name: str) -> Tensor:
        """The tensor called `name`; nothing keeps it in memory but the caller."""

    @abstractmethod
    def __contains__(self, name: str) -> bool:
        """Whether there is a value for `name`."""


class ModelWeights(Weights):
    """Of a model in memory; what ZeRO-3 has cut over processes is gathered tensor by tensor, on all of them."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._tensors: dict[str, Any] = model.state_dict(keep_vars=True)

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._tensors[name]
        if not is_partitioned(tensor):
            return tensor.detach()
        import deepspeed

        with deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors


class CheckpointWeights(Weights):
    """Of safetensors files, each opened for the tensor that is asked for.

    Renamings and conversions of older or other layouts are those of transformers: what `from_pretrained` would put
    into a model is what is read here.

    Args:
        files: of one checkpoint.
        skeleton: a model of the class that is read, without values; its tied tensors are found under either name.
    """

    def __init__(self, files: Sequence[str | os.PathLike[str]], skeleton: PreTrainedModel) -> None:
        self._skeleton = skeleton
        self._files: dict[str, str | os.PathLike[str]] = {}
        for file in files:
            with safe_open(file, framework="pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)
        # For each tensor of the model the tensors in the files that it is made of, with the pattern that says so.
        self._parts: dict[str, list[tuple[str, str | None]]] = defaultdict(list)
        self._made_with: dict[str, tuple[str, str]] = {}  # under which of these names, and what it is called there
        self._converters: dict[str, WeightConverter] = {}
        self._index()

    def __getitem__(self, name: str) -> Tensor:
        first, made = self._made_with[name]
        parts = self._parts[first]
        key, pattern = parts[0]
        if pattern is None:
            return self._read(key)
        converter: Any = copy.deepcopy(self._converters[pattern])
        for key, one in parts:
            converter.add_tensor(first, key, one, partial(self._read, key))
        value = converter.convert(first, model=self._skeleton, config=self._skeleton.config)[made]
        tensor: Tensor = value[0] if isinstance(value, list) else value
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._made_with

    def _read(self, key: str) -> Tensor:
        # Closed again, so that the pages of a file that were read do not pile up in memory.
        with safe_open(self._files[key], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(key)
        return tensor

    def _index(self) -> None:
        transforms = get_model_conversion_mapping(self._skeleton)
        renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
        converters = [one for one in transforms if isinstance(one, WeightConverter)]
        self._converters = {pattern: one for one in converters for pattern in one.source_patterns}
        wanted = self._skeleton.state_dict(keep_vars=True)
        prefix = self._skeleton.base_model_prefix
        for key in sorted(self._files, key=dot_natural_key):
            name, pattern = rename_source_key(key, renamings, converters, prefix, wanted)
            if name not in wanted and key in wanted:
                name, pattern = rename_source_key(key, [], [], prefix, wanted)
            if name not in wanted:
                continue
            self._parts[name].append((key, pattern))
            targets = self._converters[pattern].target_patterns if pattern is not None else [""]
            for target in targets:
                made = name.replace(targets[0], target) if target else name
                self._made_with[made] = (name, made)
        tied = {id(wanted[name]): place for name, place in self._made_with.items() if name in wanted}
        for name, tensor in wanted.items():
            if name not in self._made_with and id(tensor) in tied:
                self._made_with[name] = tied[id(tensor)]


def checkpoint_files(path: str | os.PathLike[str], **hub_options: Any) -> list[str]:
    """The safetensors files of a folder or hub name, downloaded where need be; none where it has others."""
    quiet = {"_raise_exceptions_for_missing_entries": False, **hub_options}
    single = cached_file(path, SAFE_WEIGHTS_NAME, **quiet)
    if single is not None:
        return [str(single)]
    index = cached_file(path, SAFE_WEIGHTS_INDEX_NAME, **quiet)
    return [] if index is None else list(get_checkpoint_shard_files(path, index, **hub_options)[0])


def stored_dtype(files: Sequence[str]) -> torch.dtype:
    """The dtype of the first floating-point tensor in the files."""
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for key in opened.keys():
                # An empty slice has the dtype and reads nothing.
                part = opened.get_slice(key)[:0] if opened.get_slice(key).get_shape() else opened.get_tensor(key)
                dtype: torch.dtype = part.dtype
                if dtype.is_floating_point:
                    return dtype
    return torch.float32


def is_partitioned(tensor: Tensor) -> bool:
    """Whether ZeRO-3 has cut a parameter over the processes."""
    return hasattr(tensor, "ds_id")


@contextlib.contextmanager
def whole_weights() -> Iterator[None]:
    """Models are made and loaded whole, although ZeRO-3 is on, under which that takes all processes."""
    reference = zero._hf_deepspeed_config_weak_ref
    config = reference() if reference is not None else None
    if config is None:
        yield
        return
    zero.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        zero.set_hf_deepspeed_config(config)
