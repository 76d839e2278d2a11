"""What goes wrong with a cache that is not the caller's mistake."""

from __future__ import annotations

from pathlib import Path


class MissingExample(KeyError):
    """A key that the store does not hold.

    Attributes:
        key: the key.
        index: its place among the keys that were asked for.
    """

    def __init__(self, key: bytes, index: int, path: Path) -> None:
        super().__init__(key)
        self.key, self.index, self.path = key, index, path

    def __str__(self) -> str:
        return f"The teacher cache {self.path} holds no example with the key {self.key.hex()} (number {self.index})."


class DamagedStore(RuntimeError):
    """A file of the store is not what was written; the message names it."""


class StoreInUse(RuntimeError):
    """Another capture is writing into the store."""
