"""One conversation in two chat templates: what was said is the same, what stands around it is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .alignment import NO_CHUNK, Ints, ends_of, shared_chunks, without, word_ends

Message = Mapping[str, Any]


def contents_of(messages: Sequence[Message]) -> list[bytes]:
    """What was said, in order; templates add and strip the space around it."""
    return [text.strip().encode() for message in messages if isinstance(text := message.get("content"), str)]


def shared_spans(student: bytes, teacher: bytes, contents: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """Where each of the contents stands in both texts, and how many bytes of it: (student's, teacher's, length).

    What a template leaves out is in none. A text that was cut may end inside of a content.
    """
    cursors = [0, 0]
    for index, content in enumerate(contents):
        found = [data.find(content, cursor) for data, cursor in zip((student, teacher), cursors, strict=True)]
        length = len(content)
        if found[0] < 0 and not any(student.find(later, cursors[0]) >= 0 for later in contents[index + 1 :] if later):
            length = _cut(student, content, cursors[0])
            found[0] = len(student) - length
        if length and min(found) >= 0:
            yield found[0], found[1], length
            cursors = [place + length for place in found]


def _cut(data: bytes, content: bytes, start: int) -> int:
    """How many bytes of a content a text ends with."""
    sizes = range(min(len(content), len(data) - start), 0, -1)
    return next((size for size in sizes if data.endswith(content[:size])), 0)


class _Side:
    """One rendering.

    Args:
        pieces: the bytes of each token; none for special tokens.
    """

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.pieces, self.text, self.ends = pieces, b"".join(pieces), ends_of(pieces)
        self.chunks: Ints = np.full(len(pieces), NO_CHUNK)

    def tokens(self, start: int, length: int) -> Ints:
        """The tokens of text that end inside of a content."""
        spelt = np.diff(self.ends, prepend=0) > 0
        return np.flatnonzero((self.ends > start) & (self.ends <= start + length) & spelt)

    def reaches_out(self, tokens: Ints, start: int) -> bool:
        """Whether the first of them has more than space before the content."""
        return len(tokens) > 0 and bool(self.text[self.ends[tokens[0]] - len(self.pieces[tokens[0]]) : start].strip())

    def end_of_turn(self, tokens: Ints, behind: int) -> int | None:
        """The special token right behind a content, if there is one."""
        place = int(tokens[-1]) + 1 if len(tokens) else 0
        there = 0 < place < len(self.pieces) and not self.pieces[place] and self.ends[place] == behind
        return place if there else None


def conversation_chunks(
    student: Sequence[bytes], teacher: Sequence[bytes], contents: Sequence[bytes], *, words: bool
) -> list[Ints]:
    """The chunk of each token of two renderings of one conversation, ``[n]`` and ``[m]``.

    A token that reaches out of a content is of no chunk, unless all that it has before it is space. Where a special
    token follows a content in both, these two end the turn and are a chunk.

    Args:
        student: the bytes of each token; none for special tokens.
        teacher: the same of the teacher.
        contents: what was said.
        words: whether chunks end only where words do.
    """
    sides, num_chunks = [_Side(student), _Side(teacher)], 0
    for *starts, length in shared_spans(sides[0].text, sides[1].text, contents):
        places = list(zip(sides, starts, strict=True))
        tokens = [side.tokens(start, length) for side, start in places]
        allowed = word_ends(sides[0].text[starts[0] : starts[0] + length]) if words else None
        student_ends, teacher_ends = (
            side.ends[indices] - start for (side, start), indices in zip(places, tokens, strict=True)
        )
        found = shared_chunks(student_ends, teacher_ends, allowed=allowed)
        for (side, start), indices, numbers in zip(places, tokens, found, strict=True):
            if side.reaches_out(indices, start):
                found = without(found, numbers[:1])
        for side, indices, numbers in zip(sides, tokens, found, strict=True):
            side.chunks[indices] = np.where(numbers < 0, NO_CHUNK, numbers + num_chunks)
        num_chunks += 1 + int(max(found[0], default=-1))
        ends = [
            side.end_of_turn(indices, start + length) for (side, start), indices in zip(places, tokens, strict=True)
        ]
        if None not in ends:
            for side, place in zip(sides, ends, strict=True):
                side.chunks[place] = num_chunks
            num_chunks += 1
    return [side.chunks for side in sides]
