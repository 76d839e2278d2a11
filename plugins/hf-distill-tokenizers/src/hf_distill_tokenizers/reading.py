"""The same text in the teacher's tokens, from the student's token ids alone, and which tokens of both go together.

Ids are all that a batch has for certain: rows may be packed, cut in the middle of a word or of a character, or written
by the student itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from .alignment import (
    NO_CHUNK,
    Ints,
    ends_of,
    ends_of_characters,
    shared_chunks,
    valid_text,
    without,
    word_ends,
)
from .conversations import Message, contents_of, conversation_chunks
from .token_bytes import TokenBytes

_NO_LIMIT = 10**6  # tokenizers that know of none say more


@dataclass(frozen=True)
class Reading:
    """One sequence as the teacher reads it.

    Attributes:
        ids: the teacher's tokens, ``[m]``, at least one.
        student_chunks: the chunk of each token of the student, ``[n]``; -1 where it is of none.
        teacher_chunks: the same of the teacher's, ``[m]``. Chunks are numbered from 0, each is of both.
    """

    ids: list[int]
    student_chunks: Ints
    teacher_chunks: Ints


@dataclass
class _Part:
    """A run of the student's tokens that are text, or a single special token.

    Attributes:
        start, stop: which tokens.
        text: what the teacher is to read; None for a special token.
        pieces: the bytes of each token.
        kept: which of these bytes are in the text.
    """

    start: int
    stop: int
    text: str | None = None
    pieces: Sequence[bytes] = ()
    kept: NDArray[np.bool_] | None = None


class Reader:
    """Reads sequences of one tokenizer with another.

    Beginning and end of a text are told by the teacher's own special tokens. Other special tokens of the student are
    left out, and so are bytes that are no text (a character that was cut).

    Args:
        student: the student's tokenizer.
        teacher: the teacher's.
        words: whether chunks end only where a word does.
        max_length: tokens that the teacher reads of a sequence; by default as many as its tokenizer allows.

    Raises:
        ValueError: a tokenizer whose tokens do not say which bytes they stand for.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase,
        *,
        words: bool = False,
        max_length: int | None = None,
    ) -> None:
        self.tokenizer, self.words = teacher, words
        self.student_bytes, self.teacher_bytes = TokenBytes(student), TokenBytes(teacher)
        limit = teacher.model_max_length if max_length is None else max_length
        self.max_length = None if limit > _NO_LIMIT else limit
        begins = teacher.bos_token_id is not None and teacher("a")["input_ids"][:1] == [teacher.bos_token_id]
        self.opening = [teacher.bos_token_id] if begins else []
        self.first_roles = _roles((student.bos_token_id, teacher.bos_token_id))
        self.roles = _roles((student.bos_token_id, teacher.bos_token_id), (student.eos_token_id, teacher.eos_token_id))

    def read(self, sequences: Sequence[Sequence[int]], counts: Sequence[NDArray[np.bool_]]) -> list[Reading]:
        """Read some sequences.

        Args:
            sequences: token ids of the student, each ``[n]``.
            counts: which of these tokens are learnt, each ``[n]``; the chunks of others are left out.
        """
        parts = [self._parts(ids) for ids in sequences]
        texts = [part.text for sequence_parts in parts for part in sequence_parts if part.text]
        encoded = self._encode(texts)
        return [
            self._assemble(ids, sequence_parts, counted, encoded)
            for ids, sequence_parts, counted in zip(sequences, parts, counts, strict=True)
        ]

    def read_conversations(
        self,
        sequences: Sequence[Sequence[int]],
        conversations: Sequence[Sequence[Message]],
        counts: Sequence[NDArray[np.bool_]],
    ) -> list[Reading]:
        """Read conversations in the teacher's own chat template; chunks are of what was said.

        Args:
            sequences: as for `read`.
            conversations: what each of them holds, as `apply_chat_template` takes it.
            counts: as for `read`.
        """
        render: Any = self.tokenizer.apply_chat_template
        texts = [render(messages, tokenize=False) for messages in conversations]
        encoded = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        readings = []
        for ids, read, messages, counted in zip(sequences, encoded, conversations, counts, strict=True):
            pieces = self.student_bytes.pieces(ids), self.teacher_bytes.pieces(read)
            student, teacher = conversation_chunks(*pieces, contents_of(messages), words=self.words)
            readings.append(self._finish(read, student, teacher, counted))
        return readings

    def _encode(self, texts: Sequence[str]) -> dict[str, tuple[list[int], Ints]]:
        """The teacher's tokens of each text and the offset in bytes behind each of them."""
        unique = list(dict.fromkeys(texts))
        if not unique:
            return {}
        encoded = self.tokenizer(
            unique,
            add_special_tokens=False,
            split_special_tokens=True,  # what looks like a special token in a text is text
            return_offsets_mapping=True,
            verbose=False,
        )
        return {
            text: (ids, self._ends(ids, spans, text))
            for text, ids, spans in zip(unique, encoded["input_ids"], encoded["offset_mapping"], strict=True)
        }

    def _ends(self, ids: list[int], spans: list[tuple[int, int]], text: str) -> Ints:
        pieces = self.teacher_bytes.pieces(ids)
        if self.teacher_bytes.spells and b"".join(pieces) == text.encode():
            return ends_of(pieces)
        return ends_of_characters(spans, text)  # unknown to the vocabulary, or normalised

    def _parts(self, ids: Sequence[int]) -> list[_Part]:
        special = [index for index, token_id in enumerate(ids) if token_id in self.student_bytes.special_ids]
        parts, start = [], 0
        for stop in (*special, len(ids)):
            if stop > start:
                pieces = self.student_bytes.pieces(ids[start:stop])
                text, kept = valid_text(b"".join(pieces))
                parts.append(_Part(start, stop, text, pieces, kept))
            if stop < len(ids):
                parts.append(_Part(stop, stop + 1))
            start = stop + 1
        return parts

    def _assemble(
        self,
        ids: Sequence[int],
        parts: Sequence[_Part],
        counted: NDArray[np.bool_],
        encoded: dict[str, tuple[list[int], Ints]],
    ) -> Reading:
        student, teacher = np.full(len(ids), NO_CHUNK), [np.full(len(self.opening), NO_CHUNK)]
        read, num_chunks = list(self.opening), 0
        for part in parts:
            if part.text:
                new, ends = encoded[part.text]
                chunks = self._align(part, ends)
            elif part.text is None and (role := self._role(ids[part.start], part.start, read)) is not None:
                new, chunks = [role], [np.zeros(1, dtype=np.int64)] * 2
            else:
                continue
            student[part.start : part.stop], teacher_chunks = (
                np.where(numbers < 0, numbers, numbers + num_chunks) for numbers in chunks
            )
            num_chunks = max(num_chunks, 1 + int(max(teacher_chunks, default=0)))
            teacher.append(teacher_chunks)
            read += new
        return self._finish(read, student, np.concatenate(teacher), counted)

    def _finish(self, read: list[int], student: Ints, teacher: Ints, counted: NDArray[np.bool_]) -> Reading:
        """A reading without the chunks that do not count, and no longer than the teacher reads."""
        if not read:  # so that no model is run on nothing
            read, teacher = [self.tokenizer.eos_token_id or 0], np.full(1, NO_CHUNK)
        limit = self.max_length or len(read)
        # Nobody predicts the first token of a sequence; what is behind the limit is not read.
        bad = np.concatenate([student[:1], teacher[:1], student[~counted], teacher[limit:]])
        student, teacher = without([student, teacher[:limit]], bad)
        order = np.unique(teacher[teacher >= 0])
        student, teacher = (
            np.where(numbers < 0, NO_CHUNK, np.searchsorted(order, numbers)) for numbers in (student, teacher)
        )
        return Reading(read[:limit], student, teacher)

    def _align(self, part: _Part, teacher_ends: Ints) -> list[Ints]:
        assert part.text is not None
        assert part.kept is not None
        behind = np.concatenate([[0], np.cumsum(part.kept)])
        ends = ends_of(part.pieces)
        lengths, kept = np.diff(ends, prepend=0), np.diff(behind[ends], prepend=0)
        allowed = word_ends(part.text.encode()) if self.words else None
        student, teacher = shared_chunks(behind[ends], teacher_ends, allowed=allowed)
        cut = kept < lengths
        student[cut & (kept == 0)] = NO_CHUNK
        return without([student, teacher], student[cut])

    def _role(self, token_id: int, index: int, read: Sequence[int]) -> int | None:
        """The teacher's token for a special one of the student, if it has one and has not read it already."""
        if index > 0:
            return self.roles.get(token_id)
        role = self.first_roles.get(token_id, self.roles.get(token_id))
        return None if list(read) == [role] else role


def _roles(*pairs: tuple[int | None, int | None]) -> dict[int, int]:
    """The teacher's special token for each of the student's; later pairs go before earlier ones."""
    return {student: teacher for student, teacher in pairs if student is not None and teacher is not None}
