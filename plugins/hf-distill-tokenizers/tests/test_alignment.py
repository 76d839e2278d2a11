"""Chunks of arbitrary texts, cut arbitrarily, against the walk through both texts that the paper describes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hf_distill_tokenizers.alignment import (
    ends_of,
    ends_of_characters,
    shared_chunks,
    valid_text,
    without,
    word_ends,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# Combining marks, directions, joiners, four-byte characters, spaces of all kinds, what looks like a token.
ODD = st.sampled_from(
    [
        "\u0301",
        "\u202e",
        "\u200d",
        "👩‍👩‍👧",
        "🙂",
        "\u00a0",
        " ",
        "\u3000",
        "\n",
        "\t",
        "\x00",
        "▁",
        "Ġ",
        "<s>",
        "ß",
        "日",
    ]
)
TEXTS = st.lists(ODD | st.characters(exclude_categories=["Cs"]), max_size=20).map("".join)


@st.composite
def two_cuts(draw):
    """A text, and its bytes cut in two ways."""
    data = draw(TEXTS).encode()
    cuts = [sorted(draw(st.sets(st.integers(1, max(len(data) - 1, 1))))) if len(data) > 1 else [] for _ in range(2)]
    pieces = []
    for own in cuts:
        bounds = [0, *own, len(data)]
        pieces.append([data[start:stop] for start, stop in itertools.pairwise(bounds) if stop > start])
    return data, *pieces


def greedy(student, teacher):
    """The paper's walk: read a token of whoever has read less, close a chunk when both have read as much."""
    chunks, start, read = [], [0, 0], [0, 0]
    place = [0, 0]
    sides = student, teacher
    while place[0] < len(student) or place[1] < len(teacher):
        side = int(read[0] > read[1]) if read[0] != read[1] else int(place[0] == len(student))
        if place[side] == len(sides[side]):
            break
        read[side] += len(sides[side][place[side]])
        place[side] += 1
        if read[0] == read[1]:
            chunks.append((start[0], place[0], start[1], place[1]))
            start = list(place)
    return chunks


@settings(max_examples=300, deadline=None)
@given(two_cuts())
def test_chunks_are_those_of_the_greedy_walk(case):
    _data, student, teacher = case
    ours, theirs = shared_chunks(ends_of(student), ends_of(teacher))
    expected = greedy(student, teacher)
    assert max(ours, default=-1) + 1 == len(expected)
    for chunk, (first, behind, other, behind_other) in enumerate(expected):
        assert np.flatnonzero(ours == chunk).tolist() == list(range(first, behind))
        assert np.flatnonzero(theirs == chunk).tolist() == list(range(other, behind_other))
    # Both spell the whole text, so nothing is left over.
    assert not (ours < 0).any()
    assert not (theirs < 0).any()


@settings(max_examples=300, deadline=None)
@given(two_cuts())
def test_a_chunk_is_of_the_same_bytes_and_cannot_be_cut_again(case):
    _, student, teacher = case
    ours, theirs = shared_chunks(ends_of(student), ends_of(teacher))
    for chunk in range(max(ours, default=-1) + 1):
        own = [student[index] for index in np.flatnonzero(ours == chunk)]
        other = [teacher[index] for index in np.flatnonzero(theirs == chunk)]
        assert b"".join(own) == b"".join(other) != b""
        inner = [{len(b"".join(pieces[:end])) for end in range(1, len(pieces))} for pieces in (own, other)]
        assert not inner[0] & inner[1]


@settings(max_examples=200, deadline=None)
@given(two_cuts())
def test_a_chunk_of_words_ends_at_the_end_of_a_word(case):
    data, student, teacher = case
    ours, _ = shared_chunks(ends_of(student), ends_of(teacher), allowed=word_ends(data))
    ends = ends_of(student)
    shortest, _ = shared_chunks(ends, ends_of(teacher))
    for chunk in range(max(ours, default=-1) + 1):
        end = ends[np.flatnonzero(ours == chunk)[-1]]
        assert end == len(data) or data[end : end + 1] == b" "
    # No end of a word that both share is passed over.
    shared = {int(ends[np.flatnonzero(shortest == chunk)[-1]]) for chunk in range(max(shortest, default=-1) + 1)}
    allowed = [end for end in shared if end == len(data) or data[end : end + 1] == b" "]
    assert max(ours, default=-1) + 1 == len(allowed)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=30) | TEXTS.map(lambda text: text.encode()[1:-1]))
def test_bytes_that_are_no_text_are_left_out(data):
    text, kept = valid_text(data)
    assert text == data.decode(errors="ignore")
    assert bytes(byte for byte, there in zip(data, kept, strict=True) if there) == text.encode()


@settings(max_examples=100, deadline=None)
@given(TEXTS)
def test_offsets_in_characters_become_offsets_in_bytes(text):
    spans = [(index, index + 1) for index in range(len(text))]
    assert ends_of_characters(spans, text).tolist() == [len(text[:end].encode()) for _, end in spans]


def test_tokens_behind_the_last_shared_end_are_of_no_chunk():
    ours, theirs = shared_chunks(np.array([2, 5, 9]), np.array([5, 7]))
    assert ours.tolist() == [0, 0, -1]
    assert theirs.tolist() == [0, -1]
    assert [part.tolist() for part in without([ours, theirs], np.array([0, 3]))] == [[-1, -1, -1], [-1, -1]]


@pytest.mark.parametrize("empty", [[], [0, 0]])
def test_a_text_of_nothing_makes_no_chunk(empty):
    ours, theirs = shared_chunks(np.array(empty, dtype=np.int64), np.array([3]))
    assert (ours < 0).all()
    assert theirs.tolist() == [-1]
