"""The teacher's own tokens of the batch's text, made where the data is loaded.

Shape letters: B examples, S positions of the student, L of the teacher, R and Q predictions of both in chunks, P pairs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_distill import IGNORE_INDEX, Batch, TeacherView

from .alignment import Ints
from .conversations import Message
from .reading import Reader, Reading

NOTHING = -1
_INPUTS = ("input_ids", "attention_mask", "position_ids")
_ALIGNED = ("student_rows", "student_chunks", "teacher_rows", "teacher_chunks", "student_pairs", "teacher_pairs")


@dataclass(frozen=True)
class TeacherTokenView(TeacherView):
    """A teacher reads the text of the student's batch in tokens of its own.

    Each sequence is read by itself, so that a cache finds it again in any batch. Of packed rows, whose positions begin
    again at zero, each sequence is one.

    Beside the teacher's inputs ``[B, L]`` it adds, under names that begin with the teacher's, which predictions of both
    models are about the same text. All are filled up with -1:

    | column | what |
    |---|---|
    | `student_rows`, `teacher_rows` | positions that predict a token of a chunk, ``[B, R]`` and ``[B, Q]`` |
    | `student_chunks`, `teacher_chunks` | the chunk of that token, numbered from 0 in each row of the batch |
    | `student_pairs`, `teacher_pairs` | positions of the k-th such token of a sequence in both, ``[B, P]`` |

    Args:
        student: the student's tokenizer.
        teacher: the teacher's.
        name: what the teacher is called in the run.
        words: whether chunks end only where words do.
        max_length: tokens that the teacher reads of a sequence; by default as many as its tokenizer allows.
        messages: the column with the conversations that the rows hold, for the teacher to read in its own chat
            template; by default it reads what stands in the row.

    Raises:
        ValueError: a tokenizer whose tokens do not say which bytes they stand for, or that has no chat template for
            conversations.
    """

    student: PreTrainedTokenizerBase
    teacher: PreTrainedTokenizerBase
    name: str
    words: bool = False
    max_length: int | None = None
    messages: str | None = None
    columns: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(f"{self.name}.{part}" for part in (*_INPUTS, *_ALIGNED)))
        if self.messages is not None and not (self.teacher.chat_template and self.reader.teacher_bytes.spells):
            raise ValueError(
                f"The teacher {self.name!r} is to read conversations ({self.messages}), but its tokenizer has no chat "
                "template, or does not keep their spaces. Leave messages out, or set teacher_tokenizer.chat_template."
            )
        assert self.reader  # tokenizers that cannot be read are an error now, not in the first batch

    @functools.cached_property
    def reader(self) -> Reader:
        """Reads sequences."""
        return Reader(self.student, self.teacher, words=self.words, max_length=self.max_length)

    def collate(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """See `TeacherView.collate`."""
        arrays = {name: inputs[name].cpu().numpy() for name in (*_INPUTS, "labels") if inputs.get(name) is not None}
        ids = arrays["input_ids"]
        mask = arrays["attention_mask"].astype(bool) if "attention_mask" in arrays else np.ones(ids.shape, dtype=bool)
        counted = arrays["labels"] != IGNORE_INDEX if "labels" in arrays else mask
        positions = np.broadcast_to(arrays["position_ids"], ids.shape) if "position_ids" in arrays else None
        places = [place for row in range(len(ids)) for place in _sequences(mask, positions, row)]
        sequences, counts = [ids[place].tolist() for place in places], [counted[place] for place in places]
        if self.messages is None:
            readings = self.reader.read(sequences, counts)
        else:
            readings = self.reader.read_conversations(sequences, self._conversations(inputs, len(places)), counts)
        rows = [_Row() for _ in ids]
        for (row, place), reading in zip(places, readings, strict=True):
            rows[row].add(place, reading)
        pad = self.teacher.pad_token_id or 0
        made = {"input_ids": _padded([row.input_ids for row in rows], pad)}
        if positions is not None:
            made["position_ids"] = _padded([row.position_ids for row in rows], 0)
        if positions is None or "attention_mask" in arrays:
            made["attention_mask"] = _padded([[1] * len(row.input_ids) for row in rows], 0)
        made |= {name: _padded([getattr(row, name) for row in rows], NOTHING) for name in _ALIGNED}
        return {f"{self.name}.{name}": values for name, values in made.items()}

    def _conversations(self, inputs: Mapping[str, Any], num_rows: int) -> Sequence[Sequence[Message]]:
        """Those of the batch, one a row.

        Raises:
            ValueError: there are none, or not as many as rows.
        """
        conversations = inputs.get(self.messages or "")
        if not isinstance(conversations, list) or len(conversations) != num_rows:
            raise ValueError(
                f"The teacher {self.name!r} reads the column {self.messages!r}, of which the batch has "
                f"{len(conversations) if isinstance(conversations, list) else 'none'}, for {num_rows} sequences. Keep "
                "one list of messages for each row, and do not pack them."
            )
        return conversations

    def batch(self, batch: Batch) -> Batch:
        """See `TeacherView.batch`."""
        inputs = {part: self.column(batch, part) for part in _INPUTS if f"{self.name}.{part}" in batch.extras}
        there = (
            inputs["attention_mask"].bool()
            if "attention_mask" in inputs
            else torch.ones_like(inputs["input_ids"], dtype=torch.bool)
        )
        follows = torch.nn.functional.pad(there, (0, 1))[:, 1:] & there
        return Batch(inputs, {}, None, None, row_mask=follows, token_mask=there)

    def column(self, batch: Batch, part: str) -> Tensor:
        """One of the columns that `collate` has made.

        Raises:
            ValueError: the batch does not have it.
        """
        if (name := f"{self.name}.{part}") not in batch.extras:
            raise ValueError(
                f"The batch has no column {name!r}, which says how the teacher {self.name!r} reads its text. The "
                "trainer's data_collator makes it; do not go past that."
            )
        values: Tensor = batch.extras[name]
        return values


@dataclass
class _Row:
    """One row of the batch while its sequences are added."""

    input_ids: list[int] = field(default_factory=list)
    position_ids: list[int] = field(default_factory=list)
    student_rows: list[int] = field(default_factory=list)
    student_chunks: list[int] = field(default_factory=list)
    teacher_rows: list[int] = field(default_factory=list)
    teacher_chunks: list[int] = field(default_factory=list)
    student_pairs: list[int] = field(default_factory=list)
    teacher_pairs: list[int] = field(default_factory=list)

    def add(self, positions: Ints, reading: Reading) -> None:
        """Add a sequence, which has these positions in the student's row."""
        student_places, teacher_places = (
            np.flatnonzero(chunks >= 0) for chunks in (reading.student_chunks, reading.teacher_chunks)
        )
        first = 1 + max(self.student_chunks, default=-1)
        # The prediction of a token stands one position before it.
        student, teacher = positions[student_places] - 1, teacher_places - 1 + len(self.input_ids)
        for name, values in (
            ("student_rows", student),
            ("teacher_rows", teacher),
            ("student_chunks", reading.student_chunks[student_places] + first),
            ("teacher_chunks", reading.teacher_chunks[teacher_places] + first),
            ("student_pairs", student[: len(teacher)]),
            ("teacher_pairs", teacher[: len(student)]),
        ):
            getattr(self, name).extend(values.tolist())
        self.input_ids += reading.ids
        self.position_ids += range(len(reading.ids))


def _sequences(mask: NDArray[np.bool_], positions: Ints | None, row: int) -> Iterator[tuple[int, Ints]]:
    """The places of each sequence in a row: what is not padding, cut where positions begin again."""
    there = np.flatnonzero(mask[row])
    begins = np.zeros(0, dtype=bool) if positions is None else positions[row, there[1:]] == 0
    for place in np.split(there, np.flatnonzero(begins) + 1):
        if len(place):
            yield row, place


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    """Rows of different lengths as one tensor, filled up on the right."""
    whole = np.full((len(rows), max(map(len, rows), default=0)), filler, dtype=np.int64)
    for target, row in zip(whole, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(whole)
