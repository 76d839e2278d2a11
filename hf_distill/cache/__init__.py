"""The teacher cache on the disk: what a teacher said, by example, for any number of students.

Everything here is between NumPy arrays and bytes; LAYOUT.md has the bytes. Writing, on one or many processes::

    manifest = Manifest(fingerprints={"teacher": "...", "tokenizer": "..."}, vocab_size=151_936, k=32)
    with CacheWriter("cache", manifest) as writer:
        writer.add(keys, rows, lengths)  # TokenRows of several examples behind each other

Reading, in any order::

    store = CacheStore("cache", fingerprints={"teacher": "...", "tokenizer": "..."})
    found = store.read(keys)  # found.rows, found.lengths, found.arrays
"""

from .errors import DamagedStore, MissingExample, StoreInUse
from .manifest import Manifest
from .ordering import by_frequency
from .repair import discard
from .rows import BOUND, FLOOR, TokenRows
from .store import CachedExamples, CacheStore, verify
from .writer import CacheWriter

__all__ = [
    "BOUND",
    "FLOOR",
    "CacheStore",
    "CacheWriter",
    "CachedExamples",
    "DamagedStore",
    "Manifest",
    "MissingExample",
    "StoreInUse",
    "TokenRows",
    "by_frequency",
    "discard",
    "verify",
]
