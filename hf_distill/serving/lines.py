"""A file of JSON lines that only grows, has one writer, and holds every line before anybody acts on it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .extras import import_extra


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of the file at `path`; a last line without its end was never acted on, and is left out.

    Raises:
        ValueError: another line is no JSON object; names it.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, line {number} is not a JSON object, so this is no ledger or a damaged one.")
            yield entry


class LineWriter:
    """Appends lines to the file at `path`, each on disk when `append` returns.

    Args:
        path: the file; made with its folder where it is absent. A torn last line is cut off before the first new one,
            so that nothing is lost of a file that was opened by mistake.

    Raises:
        ValueError: another process, or another object of this one, is writing to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        # The system drops this lock with the process that holds it, however that ends.
        filelock = import_extra("filelock", "rounds")
        self._lock = filelock.FileLock(f"{path}.lock", timeout=0, is_singleton=False)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise ValueError(
                f"{path} is being written by another run; wait for it, or give this run a ledger of its own."
            ) from None
        is_new = not path.exists()
        self._file = path.open("ab")
        self._may_be_torn = not is_new
        if is_new:
            _sync_folder(path.parent)

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line and wait until it is on disk.

        Raises:
            ValueError: `entry` holds something that JSON cannot, or the file is closed.
        """
        try:
            line = json.dumps(entry)
        except TypeError as error:
            raise ValueError(f"the ledger keeps JSON, but got {error}: convert it to text or numbers.") from None
        if self._may_be_torn:
            self._cut_torn_line()
            self._may_be_torn = False
        self._file.write(f"{line}\n".encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let others write."""
        self._file.close()
        self._lock.release()

    def _cut_torn_line(self) -> None:
        with self.path.open("rb") as file:
            whole = 0
            for line in file:
                if line.endswith(b"\n"):
                    whole += len(line)
        if whole < self.path.stat().st_size:
            self._file.truncate(whole)
            os.fsync(self._file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file in `folder` survive a loss of power; Windows has no such call."""
    if os.name != "nt":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
