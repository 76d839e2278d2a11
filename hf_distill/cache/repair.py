"""Getting rid of a damaged shard, so that the next capture computes its examples anew."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

from . import journal, manifest
from .locking import CaptureLock
from .shards import PART, sync_folder


def discard(path: str | Path, shard: str) -> None:
    """Remove a shard, by its name in the journal, from the store in the folder `path`.

    Raises:
        ValueError: there is no such shard; the message lists those there are.
        StoreInUse: a capture is writing into the store.
    """
    path = Path(path)
    manifest.load(path)
    lock = CaptureLock(path, uuid.uuid4().hex)
    try:
        for file in sorted(path.glob(journal.PATTERN)):
            entries = journal.read(file)
            kept = [entry for entry in entries if entry["shard"] != shard]
            if len(kept) < len(entries):
                temporary = file.with_name(file.name + PART)
                with open(temporary, "w", encoding="utf-8") as new:
                    new.writelines(json.dumps(entry, separators=(",", ":")) + "\n" for entry in kept)
                    new.flush()
                    os.fsync(new.fileno())
                os.replace(temporary, file)
                (path / shard).unlink(missing_ok=True)
                sync_folder(path)
                return
    finally:
        lock.close()
    names = ", ".join(entry["shard"] for entry in journal.read_all(path))
    raise ValueError(f"{path} has no shard {shard!r}; it has {names}.")
