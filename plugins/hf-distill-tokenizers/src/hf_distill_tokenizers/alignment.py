"""Where two tokenizers agree: pure functions on bytes and offsets, in NumPy, without models or tokenizers.

A chunk is the shortest run of tokens of both that spells the same bytes: it ends where a token of each ends.

Shape letters: n tokens of the student, m of the teacher.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
NO_CHUNK = -1


def shared_chunks(student_ends: Ints, teacher_ends: Ints, *, allowed: NDArray[np.bool_] | None = None) -> list[Ints]:
    """The chunk that each token belongs to, numbered from 0 in the order of the text.

    This is the greedy alignment of Minixhofer et al. 2025 (arXiv:2503.20083, section 3.1): walk through both texts, and
    close a chunk whenever as many bytes have been read of both. As ends are all that matters, it is a set intersection.

    Args:
        student_ends: the offset in bytes behind each token, ``[n]``, not decreasing. A token of no bytes that opens a
            text belongs to its first chunk.
        teacher_ends: the same of the teacher, ``[m]``.
        allowed: at which offsets a chunk may end, ``[bytes + 1]``; by default at all.

    Returns:
        Two arrays, ``[n]`` and ``[m]``; `NO_CHUNK` for tokens behind the last offset where both end.
    """
    ends = np.intersect1d(student_ends, teacher_ends)
    ends = ends[ends > 0]
    if allowed is not None:
        ends = ends[allowed[ends]]
    chunks = []
    for token_ends in (student_ends, teacher_ends):
        chunk = np.searchsorted(ends, token_ends)
        chunks.append(np.where(chunk < len(ends), chunk, NO_CHUNK))
    return chunks


def word_ends(text: bytes) -> NDArray[np.bool_]:
    """At which offsets a word ends, ``[bytes + 1]``: where a space follows, and at the end of the text."""
    following = np.frombuffer(text, dtype=np.uint8) == ord(" ")
    return np.append(following, True)


def valid_text(data: bytes) -> tuple[str, NDArray[np.bool_]]:
    """What of some bytes is text, and which bytes that is: cut characters and other invalid bytes are left out.

    Returns:
        The text, and a mask ``[len(data)]`` of its bytes.
    """
    kept = np.ones(len(data), dtype=bool)
    parts, start = [], 0
    while True:
        try:
            parts.append(data[start:].decode())
            return "".join(parts), kept
        except UnicodeDecodeError as error:
            parts.append(data[start : start + error.start].decode())
            kept[start + error.start : start + error.end] = False
            start += error.end


def ends_of(pieces: Sequence[bytes]) -> Ints:
    """The offset behind each piece, ``[n]``."""
    return np.cumsum([len(piece) for piece in pieces], dtype=np.int64)


def ends_of_characters(spans: Sequence[tuple[int, int]], text: str) -> Ints:
    """The offset in bytes behind each token, from the characters that a tokenizer says it stands for.

    Made monotone, since tokenizers differ in what they say of spaces.
    """
    widths = [len(character.encode()) for character in text]
    behind = np.concatenate([[0], np.cumsum(widths, dtype=np.int64)])
    return np.maximum.accumulate(behind[[end for _, end in spans]].astype(np.int64))


def without(chunks: Sequence[Ints], bad: Ints) -> list[Ints]:
    """The same chunks, but for those numbered in `bad`."""
    return [np.where(np.isin(numbers, bad), NO_CHUNK, numbers) for numbers in chunks]
