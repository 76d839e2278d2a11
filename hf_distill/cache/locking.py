"""Who may write into a store: the processes of one capture, and nobody beside them.

Locks are those of the operating system (`flock`): they go with the process that holds them, however it ends.
"""

from __future__ import annotations

import os
import weakref
from pathlib import Path

from .errors import StoreInUse

FILE = "writers.lock"
_held: weakref.WeakSet[LockedFile] = weakref.WeakSet()


class LockedFile:
    """An open file with a lock on it, both until `close`."""

    def __init__(self, path: Path) -> None:
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(self)

    def lock(self, *, exclusive: bool, wait: bool = False) -> bool:
        """Take the lock, or change its kind; false where somebody else's stands against it."""
        import fcntl  # not on Windows, where stores can be read but not written

        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(self.descriptor, kind if wait else kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the lock goes with it."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def _close_in_child() -> None:
    # A lock lives as long as any copy of the descriptor: workers must not hold that of a capture that was killed.
    for file in list(_held):
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class CaptureLock:
    """Held in common by the processes of one capture, which give the same `session`.

    Attributes:
        first: whether no other process holds it; then nobody comes in before `share` is called.

    Raises:
        StoreInUse: another session holds it.
    """

    def __init__(self, path: Path, session: str) -> None:
        self._path, self._session = path, session.encode()
        self._file = LockedFile(path / FILE)
        self.first = self._file.lock(exclusive=True)
        if self.first:
            os.ftruncate(self._file.descriptor, 0)
            os.pwrite(self._file.descriptor, self._session, 0)
        else:
            self.share()

    def share(self) -> None:
        """Let the other processes of the session in; waits for the first to have done so."""
        self._file.lock(exclusive=False, wait=True)
        # Giving up an exclusive lock for a shared one is two steps, and somebody may come in between.
        found = os.pread(self._file.descriptor, 4096, 0)
        if found != self._session:
            self.close()
            raise StoreInUse(
                f"Another capture is writing into {self._path} (session {found.decode(errors='replace')}). "
                "Wait for it to end, or capture into another folder."
            )

    def close(self) -> None:
        """Give the lock up."""
        self._file.close()
