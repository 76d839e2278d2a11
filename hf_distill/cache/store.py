"""Reading a store: by key, in batches, without reading the rest of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import journal, manifest, ordering
from .bits import Integers
from .codec import decode
from .errors import MissingExample
from .rows import TokenRows
from .shards import KEY_BYTES, Example, Shard, from_stored

Keys = Sequence[bytes]


def check_keys(keys: Keys) -> None:
    """Raise a ValueError where a key is of another length than it must be."""
    for key in keys:
        if len(key) != KEY_BYTES:
            raise ValueError(f"A key has {KEY_BYTES} bytes; got one of {len(key)}.")


@dataclass
class CachedExamples:
    """What a store says about some examples, in the order in which they were asked for.

    Attributes:
        rows: the positions of all examples behind each other; None where the store has no token rows.
        lengths: how many positions each has, int64 ``[E]`` (zeros without token rows).
        arrays: by name, the array of each example; what is stored as bfloat16 comes as float32.
    """

    rows: TokenRows | None
    lengths: Integers
    arrays: dict[str, list[NDArray[Any]]]


class CacheStore:
    """A teacher cache, opened for reading.

    Opening reads the manifest, the journals and the index of each shard (keys and places), and compares the sizes of
    the shards; reading an example compares its own checksum. `verify` reads everything. What is written after opening
    is seen after `refresh`. A store may be used in forked and pickled workers.

    Args:
        path: the folder.
        fingerprints: what must be that of the capture, by name (see `Manifest.fingerprints`).

    Raises:
        FileNotFoundError: there is no store.
        ValueError: another format version or another fingerprint; the message has both.
        DamagedStore: a file is missing or not what was written; the message names it.
    """

    def __init__(self, path: str | Path, *, fingerprints: Mapping[str, str] | None = None) -> None:
        self.path = Path(path)
        self.manifest = manifest.load(self.path)
        self.manifest.check(fingerprints or {}, self.path)
        self._open()

    def _open(self) -> None:
        self._shards: list[Shard] = []
        self._order: Integers | None = None
        self._keys: NDArray[np.bytes_] = np.zeros(0, dtype=f"S{KEY_BYTES}")
        self.refresh()

    def refresh(self) -> None:
        """Take in the shards that were finished since."""
        known = {shard.entry["shard"] for shard in self._shards}
        entries = [entry for entry in journal.read_all(self.path) if entry["shard"] not in known]
        if not entries:
            return
        self._shards += [Shard(self.path / entry["shard"], entry, self.manifest.arrays) for entry in entries]
        sizes = [len(shard.keys) for shard in self._shards]
        # Where two processes stored one key, the first counts.
        self._keys, first = np.unique(np.concatenate([shard.keys for shard in self._shards]), return_index=True)
        self._where = np.repeat(np.arange(len(sizes)), sizes)[first]
        self._index = np.concatenate([np.arange(size) for size in sizes])[first]

    def __getstate__(self) -> dict[str, Any]:
        """Only where it is: another process opens it anew."""
        return {"path": self.path, "manifest": self.manifest}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        """How many examples there are."""
        return len(self._keys)

    def __contains__(self, key: bytes) -> bool:
        return bool(self.contains([key])[0])

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of the keys are there, ``[len(keys)]``."""
        return self._find(keys)[1]

    def keys(self) -> Iterator[bytes]:
        """All keys, sorted."""
        for key in self._keys:
            yield bytes(key).ljust(KEY_BYTES, b"\0")

    @property
    def shards(self) -> list[Mapping[str, Any]]:
        """The journal entries of the shards: name, bytes, sha256, examples, tokens."""
        return [shard.entry for shard in self._shards]

    @property
    def num_tokens(self) -> int:
        """How many positions the shards hold."""
        return sum(int(entry["tokens"]) for entry in self.shards)

    @property
    def num_bytes(self) -> int:
        """What the files of the store take on the disk: shards, journals, manifest and order, but no folders beside."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    def read(self, keys: Keys, *, waiting: Mapping[bytes, Example] | None = None) -> CachedExamples:
        """What is stored under the keys.

        Args:
            keys: of any examples, in any order.
            waiting: examples that a writer has not written yet.

        Raises:
            MissingExample: one of them is not there.
            DamagedStore: the bytes of one are not those that were written; the message names the shard.
        """
        waiting = waiting or {}
        places, found = self._find(keys)
        examples = []
        for index, (key, place, there) in enumerate(zip(keys, places.tolist(), found.tolist(), strict=True)):
            if there:
                examples.append(self._shards[self._where[place]].read(int(self._index[place])))
            elif key in waiting:
                examples.append((waiting[key].rows, waiting[key].arrays))
            else:
                raise MissingExample(key, index, self.path)
        dtypes = self.manifest.arrays
        arrays = {name: [from_stored(each[1][name], dtypes[name]) for each in examples] for name in dtypes}
        if self.manifest.vocab_size is None:
            return CachedExamples(None, np.zeros(len(keys), dtype=np.int64), arrays)
        if self._order is None and self.manifest.order is not None:
            self._order = ordering.load(self.path, self.manifest.order)
        rows, lengths = decode([rows for rows, _ in examples], self.manifest.vocab_size, self._order)
        return CachedExamples(rows, lengths, arrays)

    def _find(self, keys: Keys) -> tuple[Integers, NDArray[np.bool_]]:
        check_keys(keys)
        wanted = np.array(list(keys), dtype=f"S{KEY_BYTES}")
        if not len(self._keys):
            return np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=bool)
        places = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return places, self._keys[places] == wanted


def verify(path: str | Path) -> Iterator[tuple[str, str | None]]:
    """Read every byte of the store and say of each shard, by name, what is wrong with it: nothing (None), or what.

    Works on stores that are too damaged to be opened.
    """
    path = Path(path)
    found = manifest.load(path)
    if found.order is not None:
        ordering.load(path, found.order)
    for entry in journal.read_all(path):
        yield entry["shard"], _problem(path / entry["shard"], entry)


def _problem(path: Path, entry: Mapping[str, Any]) -> str | None:
    digest, size = hashlib.sha256(), 0
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
                size += len(block)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if size != entry["bytes"]:
        return f"has {size:,} bytes; {entry['bytes']:,} were written"
    if digest.hexdigest() != entry["sha256"]:
        return f"has the SHA-256 {digest.hexdigest()}; {entry['sha256']} was written"
    return None
