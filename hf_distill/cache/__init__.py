"""The teacher cache on the disk: what a teacher said, by example, for any number of students.

Everything here is between NumPy arrays and bytes; LAYOUT.md has the bytes. Writing, on one or many processes::

    manifest = Manifest(fingerprints={"teacher": "...", "tokenizer": "..."}, vocab_size=151_936, k=32)
    with CacheWriter("cache", manifest) as writer:
        writer.add(keys, rows, lengths)  # TokenRows of several examples behind each other

Reading, in any order::

    store = CacheStore("cache", fingerprints={"teacher": "...", "tokenizer": "..."})
    found = store.read(keys)  # found.rows, found.lengths, found.arrays
"""

from __future__ import annotations

from ..hookspecs import Register, RegisterCommand, hookimpl


@hookimpl
def register_teachers(register: Register) -> None:
    """A teacher whose answers are kept, with or without a live one behind it."""
    register("cache", "hf_distill.cache.teacher:CacheTeacher")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Filling a cache, and looking into one."""
    register("capture", "hf_distill.cache.capture_command:capture", help="Keep what a teacher says of the data.")
    register("cache", "hf_distill.cache.commands:cache", help="Look into teacher caches: info, verify, compare.")
