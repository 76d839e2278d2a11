"""Writing a store: one process of a capture, or the only one."""

from __future__ import annotations

import dataclasses
import errno
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import journal, manifest, ordering, shards
from .bits import Integers
from .codec import encode
from .errors import StoreInUse
from .locking import CaptureLock, LockedFile
from .manifest import Manifest
from .rows import TokenRows
from .shards import PART, SUFFIX, Example
from .store import CachedExamples, CacheStore, Keys, check_keys

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class CacheWriter:
    """Adds examples to a teacher cache; begins it where there is none, and goes on where there is.

    Examples wait in memory until they fill a shard, which is then on the disk as a whole or not at all. What a killed
    capture left unfinished is removed by the next one. Leaving the ``with`` block writes what waits, also after an
    exception.

    Args:
        path: the folder.
        manifest: what the store holds. A store that was begun with another one is refused.
        order: the ids of the vocabulary, frequent ones first (see `ordering.by_frequency`), ``[V]``. It takes 4 bytes a
            word once and saves about a sixth of each position. Where a store goes on, it keeps its own.
        rank: number of this process among those of the capture.
        session: the same string in all processes of one capture, and in no other; may be left out where there is one.
        shard_bytes: a shard is written once it holds as many bytes.
        shard_seconds: or once its first example has waited so long: what a killed capture loses at most.

    Raises:
        ValueError: the store was begun with another manifest; both values are in the message.
        StoreInUse: another capture is writing.
        DamagedStore: a file of the store is not what was written; the message names it.
    """

    def __init__(
        self,
        path: str | Path,
        manifest: Manifest,
        *,
        order: NDArray[np.int64] | None = None,
        rank: int = 0,
        session: str | None = None,
        shard_bytes: int = 64 << 20,
        shard_seconds: float = 300,
    ) -> None:
        self.path, self._rank = Path(path), rank
        self._shard_bytes, self._shard_seconds = shard_bytes, shard_seconds
        self._waiting: dict[bytes, Example] = {}
        self._ndims: dict[str, int] = {}
        self._num_bytes, self._since = 0, 0.0
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = CaptureLock(self.path, session or uuid.uuid4().hex)
        try:
            if self._lock.first:
                _begin(self.path, manifest, order)
                _sweep(self.path)
                self._lock.share()
            self._journal = self._open_journal()
            self._store = CacheStore(self.path)
            self._store.manifest.check_same(manifest, self.path)
        except BaseException:
            self.close(write=False)
            raise
        self._ranks: Integers | None = None
        if (checksum := self._store.manifest.order) is not None:
            self._ranks = np.argsort(ordering.load(self.path, checksum))

    def _open_journal(self) -> LockedFile:
        file = LockedFile(journal.journal_file(self.path, self._rank))
        if not file.lock(exclusive=True):
            file.close()
            raise StoreInUse(
                f"Another process writes into {self.path} as number {self._rank}. Every process of a capture needs its "
                "own rank."
            )
        journal.cut_torn_line(file.descriptor)
        return file

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Which of the keys need no computing: they are in the store or wait to be written, ``[len(keys)]``."""
        found = self._store.contains(keys)
        found |= np.array([key in self._waiting for key in keys], dtype=bool)
        return found

    def read(self, keys: Keys) -> CachedExamples:
        """What is stored under the keys or waits to be: the same numbers, see `CacheStore.read`."""
        return self._store.read(keys, waiting=self._waiting)

    def add(
        self,
        keys: Keys,
        rows: TokenRows | None = None,
        lengths: Sequence[int] | None = None,
        arrays: Mapping[str, Sequence[NDArray[Any]]] | None = None,
    ) -> int:
        """Take in some examples, and write a shard where it is time to.

        Args:
            keys: 16 bytes for each example. What is already there is passed over.
            rows: the positions of all examples behind each other, where the manifest has a vocabulary.
            lengths: how many positions each example has.
            arrays: by name as in the manifest, the array of each example.

        Returns:
            How many were new.

        Raises:
            ValueError: numbers that cannot be stored within the bound, or not what the manifest says.
            OSError: the disk is full. The store is intact, and what waits can be written once there is space.
        """
        arrays = arrays or {}
        self._check(keys, rows, lengths, arrays)
        known = self.contains(keys)
        new = sorted({key: i for i, key in reversed(list(enumerate(keys))) if not known[i]}.values())
        coded = [b""] * len(new)
        if rows is not None and lengths is not None:
            coded = self._encode(rows, np.asarray(lengths, dtype=np.int64), new)
        dtypes = self._store.manifest.arrays
        stored = {name: [shards.to_stored(arrays[name][i], dtype, name) for i in new] for name, dtype in dtypes.items()}
        for place, i in enumerate(new):
            self._since = self._since if self._waiting else time.monotonic()
            positions = int(lengths[i]) if lengths is not None else 0
            example = Example(keys[i], coded[place], {name: part[place] for name, part in stored.items()}, positions)
            self._waiting[keys[i]] = example
            self._num_bytes += example.num_bytes
        old = bool(self._waiting) and time.monotonic() - self._since >= self._shard_seconds
        if self._num_bytes >= self._shard_bytes or old:
            self.flush()
        return len(new)

    def _encode(self, rows: TokenRows, lengths: Integers, new: list[int]) -> list[bytes]:
        if len(new) < len(lengths):
            chosen = np.isin(np.repeat(np.arange(len(lengths)), lengths), new)
            rows, lengths = rows[chosen], lengths[new]
        vocab_size = self._store.manifest.vocab_size
        assert vocab_size is not None
        return encode(rows, lengths.tolist(), vocab_size, self._ranks)

    def _check(
        self, keys: Keys, rows: TokenRows | None, lengths: Sequence[int] | None, arrays: Mapping[str, Sequence[Any]]
    ) -> None:
        check_keys(keys)
        held = self._store.manifest
        if (rows is not None) != (held.vocab_size is not None) or (rows is None) != (lengths is None):
            raise ValueError(
                f"The manifest of {self.path} has vocab_size {held.vocab_size}; give rows and lengths exactly where it "
                f"has one. Got {'rows' if rows is not None else 'no rows'}, lengths {lengths}."
            )
        if rows is not None and lengths is not None and (len(lengths), sum(lengths)) != (len(keys), len(rows)):
            raise ValueError(
                f"Got {len(keys)} keys, {len(lengths)} lengths that add up to {sum(lengths)}, and {len(rows)} "
                "positions; expected a length for each key, and as many positions as they add up to."
            )
        if rows is not None and held.k is not None and rows.ids.shape[1] > held.k:
            raise ValueError(
                f"Positions keep up to {rows.ids.shape[1]} ids; the manifest of {self.path} has k {held.k}."
            )
        if {name: len(parts) for name, parts in arrays.items()} != dict.fromkeys(held.arrays, len(keys)):
            raise ValueError(f"Got arrays {sorted(arrays)}; expected {sorted(held.arrays)}, one of each for every key.")
        for name, parts in arrays.items():
            for part in parts:
                if (ndim := self._ndims.setdefault(name, np.ndim(part))) != np.ndim(part):
                    raise ValueError(
                        f"Array {name!r} has shape {np.shape(part)}; expected {ndim} dimensions as in earlier examples."
                    )

    def flush(self) -> None:
        """Write what waits as a shard; on the disk when this returns.

        Raises:
            OSError: the disk is full. The store is intact, and a later call tries again.
        """
        self._store.refresh()  # what other processes of the capture have written meanwhile need not be written again
        keys = list(self._waiting)
        stored = self._store.contains(keys)
        waiting = [self._waiting[key] for key, known in zip(keys, stored, strict=True) if not known]
        if waiting:
            path = self.path / self._next_name()
            try:
                entry = shards.write(path, waiting, self._store.manifest.arrays)
                tokens = sum(example.positions for example in waiting)
                about = {"shard": path.name, "examples": len(waiting), "tokens": tokens}
                journal.append(self._journal.descriptor, about | entry)
            except OSError as error:
                path.unlink(missing_ok=True)
                if error.errno not in _FULL:
                    raise
                raise OSError(
                    error.errno,
                    f"No space for a shard of {self._num_bytes:,} bytes in the teacher cache {self.path} "
                    f"({os.strerror(error.errno or 0)}). Finished shards are intact; {len(waiting)} examples are not "
                    "stored. Make space and start the same capture again: it computes only what is missing.",
                ) from error
            self._store.refresh()
        self._waiting, self._num_bytes = {}, 0

    def _next_name(self) -> str:
        # From the file, not from memory: an interrupt may have come between the entry and what follows it.
        names = [entry["shard"] for entry in journal.read(journal.journal_file(self.path, self._rank))]
        last = max((int(name.removesuffix(SUFFIX).rpartition("-")[2]) for name in names), default=-1)
        return f"shard-{self._rank:05d}-{last + 1:05d}{SUFFIX}"

    def close(self, *, write: bool = True) -> None:
        """Write what waits (unless `write` is false) and let other captures in."""
        try:
            if write and self._waiting:
                self.flush()
        finally:
            if hasattr(self, "_journal"):
                self._journal.close()
            self._lock.close()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _begin(path: Path, given: Manifest, order: Integers | None) -> None:
    """Write the manifest where there is none."""
    if (path / manifest.FILE).exists():
        return
    if any(path.glob(journal.PATTERN)):
        raise ValueError(f"{path} has journals of a teacher cache but no {manifest.FILE}: it is not complete.")
    checksum = None
    if order is not None:
        if given.vocab_size is None or not np.array_equal(np.sort(order), np.arange(given.vocab_size)):
            raise ValueError(
                f"The order has {len(order)} ids; expected each id of the vocabulary once, vocab_size "
                f"{given.vocab_size}."
            )
        checksum = ordering.save(path, np.asarray(order))
    dataclasses.replace(given, order=checksum).save(path)
    shards.sync_folder(path)


def _sweep(path: Path) -> None:
    """Remove what a capture that was killed did not finish."""
    named = {entry["shard"] for entry in journal.read_all(path)}
    for file in path.iterdir():
        if file.name.endswith(PART) or (file.name.endswith(SUFFIX) and file.name.startswith("shard-")):
            if file.name not in named:
                file.unlink()
