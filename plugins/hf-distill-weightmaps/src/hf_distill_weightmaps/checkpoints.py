"""Checkpoints in safetensors, read and written one tensor at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file, get_checkpoint_shard_files


class Checkpoint:
    """The tensors of a folder or hub name, by the names in its files.

    Args:
        path: of the checkpoint.

    Raises:
        ValueError: it has no safetensors.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self._files: dict[str, str] = {}
        for file in _files(self.path):
            with safe_open(file, framework="pt") as opened:
                self._files |= dict.fromkeys(opened.keys(), file)

    def __getitem__(self, name: str) -> Tensor:
        # Closed again, so that the pages of the file that were read do not pile up.
        with safe_open(self._files[name], framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        return tensor

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it."""
        with safe_open(self._files[name], framework="pt") as opened:
            return tuple(opened.get_slice(name).get_shape())


class ShardWriter:
    """Writes tensors into a folder, a file whenever so many bytes have come together; a context manager.

    Args:
        folder: made where it is absent.
        shard_bytes: of one file, at most, unless a tensor is larger.
    """

    def __init__(self, folder: str | os.PathLike[str], *, shard_bytes: int) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.shard_bytes = shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._bytes = self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        """Write a tensor, now or with those that follow."""
        size = tensor.numel() * tensor.element_size()
        if self._waiting and self._bytes + size > self.shard_bytes:
            self._flush()
        self._waiting[name] = tensor.contiguous()
        self._bytes += size
        self._total += size

    def finish(self) -> None:
        """Write what is left, name the files as transformers does, and write their index where there are several."""
        self._flush()
        count = len(self._shards)
        names = [f"model-{place:05d}-of-{count:05d}.safetensors" for place in range(1, count + 1)]
        if count == 1:
            names = [SAFE_WEIGHTS_NAME]
        else:
            index = {name: file for file, shard in zip(names, self._shards, strict=True) for name in shard}
            text = json.dumps({"metadata": {"total_size": self._total}, "weight_map": index}, indent=1)
            (self.folder / SAFE_WEIGHTS_INDEX_NAME).write_text(text + "\n", encoding="utf-8")
        for place, file in enumerate(names):
            os.replace(self._partial(place), self.folder / file)

    def _flush(self) -> None:
        if self._waiting:
            save_file(self._waiting, self._partial(len(self._shards)), metadata={"format": "pt"})
            self._shards.append(list(self._waiting))
        self._waiting, self._bytes = {}, 0

    def _partial(self, place: int) -> Path:
        return self.folder / f"partial-{place}.safetensors"


def _files(path: str) -> list[str]:
    quiet = {"_raise_exceptions_for_missing_entries": False}
    if (single := cached_file(path, SAFE_WEIGHTS_NAME, **quiet)) is not None:
        return [str(single)]
    if (index := cached_file(path, SAFE_WEIGHTS_INDEX_NAME, **quiet)) is None:
        raise ValueError(f"{path!r} has no {SAFE_WEIGHTS_NAME} and no index of several; save it as safetensors.")
    return list(get_checkpoint_shard_files(path, index)[0])
