"""Which shards exist: one JSON object a line, one file for each process of a capture.

A shard that no journal names does not exist. A line counts once its end is written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import DamagedStore

PATTERN = "journal-*.jsonl"
FIELDS = ("shard", "bytes", "sha256", "index_bytes", "index_crc32", "examples", "tokens")


def journal_file(path: Path, rank: int) -> Path:
    """The journal of process `rank` in the store `path`."""
    return path / f"journal-{rank:05d}.jsonl"


def read(path: Path) -> list[dict[str, Any]]:
    """The entries of one journal, without a last line that a dying process did not finish."""
    entries = []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            entries.append({name: entry[name] for name in FIELDS})
        except (ValueError, KeyError, TypeError):
            raise DamagedStore(f"Line {number} of the journal {path} cannot be read: {line[:80]!r}.") from None
    return entries


def read_all(path: Path) -> list[dict[str, Any]]:
    """The entries of all journals of the store `path`."""
    return [entry for file in sorted(path.glob(PATTERN)) for entry in read(file)]


def append(descriptor: int, entry: Mapping[str, Any]) -> None:
    """Add an entry to an open journal, on the disk before this returns, or not at all."""
    line = json.dumps(entry, separators=(",", ":")).encode() + b"\n"
    end = os.lseek(descriptor, 0, os.SEEK_END)
    try:
        written = os.write(descriptor, line)
        while written < len(line):  # the disk became full in the middle; the next call says so
            written += os.write(descriptor, line[written:])
        os.fsync(descriptor)
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def cut_torn_line(descriptor: int) -> None:
    """Remove what follows the last finished line of an open journal."""
    size = os.lseek(descriptor, 0, os.SEEK_END)
    content = os.pread(descriptor, size, 0)
    os.ftruncate(descriptor, content.rfind(b"\n") + 1)
