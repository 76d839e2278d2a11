"""One shard: a safetensors file of many examples, written once, read by memory map.

Any safetensors reader opens it. It is written and mapped here, because a shard is read example by example, and because
tensors that say where the examples are come first, so that opening a shard touches little of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bits import Integers, sums
from .errors import DamagedStore

KEY_BYTES = 16
ROWS = "rows"
SUFFIX, PART = ".safetensors", ".part"
_DTYPES = {"U8": "u1", "U32": "<u4", "U64": "<u8", "F16": "<f2", "BF16": "<u2", "F32": "<f4"}
_STORED = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


def to_stored(values: NDArray[Any], dtype: str, name: str) -> NDArray[Any]:
    """An array as it lies in a shard; bfloat16, which NumPy lacks, as its bits.

    Raises:
        ValueError: a finite number that float16 cannot hold.
    """
    if dtype == "bfloat16":
        bits = np.asarray(values, dtype="<f4", order="C").view("<u4").astype(np.uint64)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16  # to the nearest, ties to even
        return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype("<u2")
    values = np.asarray(values)
    with np.errstate(over="ignore"):
        stored = np.asarray(values, dtype={"float16": "<f2", "float32": "<f4"}[dtype], order="C")
    if (np.isinf(stored) & np.isfinite(values)).any():
        raise ValueError(
            f"Array {name!r} reaches {np.abs(values[np.isfinite(values)]).max():.4g}, which {dtype} cannot hold. "
            "Store it as bfloat16 or float32."
        )
    return stored


def from_stored(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The inverse of `to_stored`; bfloat16 comes back as float32."""
    return (values.astype("<u4") << 16).view("<f4") if dtype == "bfloat16" else values.copy()


@dataclass
class Example:
    """What a shard keeps under a key: coded token rows (or nothing) and arrays as `to_stored` makes them."""

    key: bytes
    rows: bytes
    arrays: Mapping[str, NDArray[Any]]
    positions: int = 0

    @property
    def num_bytes(self) -> int:
        """About what it takes in a shard."""
        return KEY_BYTES + 12 + len(self.rows) + sum(array.nbytes for array in self.arrays.values())


def checksum(rows: Any, arrays: Sequence[Any]) -> int:
    """CRC-32 of an example: of its rows and then of its arrays by name."""
    value = zlib.crc32(rows)
    for array in arrays:
        value = zlib.crc32(array, value)
    return value


def write(path: Path, examples: Sequence[Example], dtypes: Mapping[str, str]) -> dict[str, Any]:
    """Write a shard so that a file of that name is complete and on the disk; returns its sizes and checksums.

    Raises:
        OSError: the disk is full, for instance; nothing is left behind.
    """
    names = sorted(dtypes)
    tensors: list[tuple[str, str, tuple[int, ...], list[Any]]] = []

    def add(name: str, dtype: str, shape: tuple[int, ...], *parts: Any) -> None:
        tensors.append((name, dtype, shape, list(parts)))

    count = len(examples)
    crcs = [checksum(example.rows, [example.arrays[name] for name in names]) for example in examples]
    add("row_offsets", "U64", (count + 1,), sums(np.array([len(e.rows) for e in examples], dtype=np.int64)))
    add("crc32", "U32", (count,), np.array(crcs, dtype="<u4"))
    for name in names:
        shapes = np.array([e.arrays[name].shape for e in examples], dtype="<u4")
        add(f"array_shapes.{name}", "U32", shapes.shape, shapes)
    add("keys", "U8", (count, KEY_BYTES), b"".join(e.key for e in examples))
    for name in sorted(names, key=lambda name: dtypes[name] != "float32"):  # the wider first: all lie aligned
        arrays = [e.arrays[name] for e in examples]
        add(f"arrays.{name}", _STORED[dtypes[name]], (sum(array.size for array in arrays),), *arrays)
    add(ROWS, "U8", (sum(len(e.rows) for e in examples),), *(e.rows for e in examples))
    index = len(tensors) - len(names) - 1
    return _save(path, tensors, index)


def _save(path: Path, tensors: Sequence[tuple[str, str, tuple[int, ...], list[Any]]], index: int) -> dict[str, Any]:
    """Write a safetensors file, of which the header and the first `index` tensors are read when it is opened."""
    header: dict[str, Any] = {}
    end = 0
    for name, dtype, shape, _ in tensors:
        start, end = end, end + int(np.prod(shape, dtype=np.int64)) * np.dtype(_DTYPES[dtype]).itemsize
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    index_bytes = 8 + len(text) + header[tensors[index][0]]["data_offsets"][0]
    digest, size, index_crc = hashlib.sha256(), 0, 0
    temporary = path.with_name(path.name + PART)
    try:
        with open(temporary, "wb") as file:
            for part in (len(text).to_bytes(8, "little"), text, *(part for *_, parts in tensors for part in parts)):
                data = part.tobytes() if isinstance(part, np.ndarray) else part
                digest.update(data)
                if size < index_bytes:
                    index_crc = zlib.crc32(data, index_crc)
                size += file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return {"bytes": size, "sha256": digest.hexdigest(), "index_bytes": index_bytes, "index_crc32": index_crc}


def sync_folder(path: Path) -> None:
    """Make the names of new files in a folder survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Shard:
    """A shard on the disk, by what its journal entry says of it.

    Raises:
        DamagedStore: it is missing, has another size, or its index is not what was written.
    """

    def __init__(self, path: Path, entry: Mapping[str, Any], dtypes: Mapping[str, str]) -> None:
        self.path, self.entry, self.dtypes = path, entry, dtypes
        try:
            with open(path, "rb") as file:
                size = os.fstat(file.fileno()).st_size
                index = file.read(entry["index_bytes"])
        except FileNotFoundError:
            raise DamagedStore(f"The shard {path} is missing, but its journal names it.") from None
        if size != entry["bytes"]:
            raise DamagedStore(f"The shard {path} has {size:,} bytes; {entry['bytes']:,} were written.")
        if zlib.crc32(index) != entry["index_crc32"]:
            raise DamagedStore(f"The index of the shard {path} is not what was written: its CRC-32 differs.")
        self._first = 8 + int.from_bytes(index[:8], "little")
        self._header = json.loads(index[8 : self._first])
        # Of one length, strings of bytes compare as keys do, although NumPy drops zeros at their end.
        self.keys: NDArray[np.bytes_] = self._tensor(index, "keys").reshape(-1).view(f"S{KEY_BYTES}")
        self._row_offsets = self._tensor(index, "row_offsets").astype(np.int64)
        self._crc32 = self._tensor(index, "crc32")
        self._shapes = {name: self._tensor(index, f"array_shapes.{name}") for name in sorted(dtypes)}
        self._array_offsets: dict[str, Integers] = {
            name: sums(np.prod(shapes, axis=1, dtype=np.int64)) for name, shapes in self._shapes.items()
        }

    def _tensor(self, data: Any, name: str) -> NDArray[Any]:
        entry = self._header[name]
        shape, (start, end) = entry["shape"], entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        part = memoryview(data)[self._first + start : self._first + end]
        return np.frombuffer(part, dtype=dtype).reshape(shape)

    def read(self, index: int) -> tuple[memoryview, dict[str, NDArray[Any]]]:
        """The rows and arrays of an example as they were stored.

        Raises:
            DamagedStore: its bytes are not those that were written (their CRC-32 is compared).
        """
        data = _map(self.path, self.entry["sha256"])
        rows = memoryview(self._tensor(data, ROWS).data)[self._row_offsets[index] : self._row_offsets[index + 1]]
        arrays = {}
        for name, shapes in self._shapes.items():
            start, end = self._array_offsets[name][index : index + 2]
            arrays[name] = self._tensor(data, f"arrays.{name}")[start:end].reshape(shapes[index])
        if checksum(rows, list(arrays.values())) != self._crc32[index]:
            raise DamagedStore(f"The shard {self.path} is damaged: the CRC-32 of its example {index} differs.")
        return rows, arrays


@functools.lru_cache(maxsize=256)  # each map holds a file open
def _map(path: Path, sha256: str) -> mmap.mmap:
    with open(path, "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
