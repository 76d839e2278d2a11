"""What the teacher reads of the student's tokens, for tokenizers of all kinds, and where both agree."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
from hf_distill_tokenizers.reading import Reader
from hf_distill_tokenizers.token_bytes import TokenBytes
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from .kinds import KINDS, TEXT, tokenizer_of

REAL = ("tokenizers/gpt2", "tokenizers/mistral-7b-v0.1", "teacher_lm", "stories260k/hf")
ODD = [
    "\u0301",
    "\u200d",
    "👩‍👩‍👧",
    "🙂",
    "\u00a0",
    " ",
    "  ",
    "\n",
    "\x00",
    "▁",
    "Ġ",
    "<s>",
    "</s>",
    "ß",
    "日本",
    "…",
    "<0x41>",
]
TEXTS = st.lists(st.sampled_from([*ODD, *TEXT[0].split()]) | st.characters(exclude_categories=["Cs"]), max_size=15)
PAIRS = list(itertools.permutations(KINDS, 2))


@functools.cache
def real_tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def read(student, teacher, ids, counted=None, **options):
    """One sequence; and for each chunk the tokens of both."""
    counted = np.ones(len(ids), dtype=bool) if counted is None else np.array(counted)
    (reading,) = Reader(student, teacher, **options).read([ids], [counted])
    chunks = [
        [np.flatnonzero(own == chunk).tolist() for own in (reading.student_chunks, reading.teacher_chunks)]
        for chunk in range(max(reading.student_chunks, default=-1) + 1)
    ]
    return reading, chunks


def folded(text):
    """What is left of a text where case, accents and spaces may be lost."""
    import unicodedata

    kept = unicodedata.normalize("NFKD", text).casefold()
    return "".join(character for character in kept if character.isalnum())


def check_prefixes(student, teacher, ids, reading, chunks):
    """Up to the end of every chunk the tokenizers themselves decode the same text."""
    for own, other in chunks:
        assert own == list(range(own[0], own[-1] + 1))
        assert other == list(range(other[0], other[-1] + 1))
        ours = student.decode(ids[: own[-1] + 1], skip_special_tokens=True)
        theirs = teacher.decode(reading.ids[: other[-1] + 1], skip_special_tokens=True)
        if not {ours[-1:], theirs[-1:]} & {"\ufffd"}:  # else a chunk ends inside of a character
            assert folded(ours) == folded(theirs)
            if exact(student, teacher):
                assert ours.replace("\u2581", " ").lstrip() == theirs.replace("\u2581", " ").lstrip()


def exact(*tokenizers):
    return all(TokenBytes(one).spells for one in tokenizers)


@pytest.mark.parametrize(("one", "other"), PAIRS)
@settings(max_examples=15, deadline=None)
@given(parts=TEXTS)
def test_exact_tokenizers_read_the_same_text_and_all_kinds_share_its_end(one, other, parts):
    student, teacher = tokenizer_of(one), tokenizer_of(other)
    text = " ".join(parts)
    ids = [student.bos_token_id, *ids_of(student, text), student.eos_token_id]
    reading, chunks = read(student, teacher, ids)
    if exact(student, teacher) and "unigram" not in (one, other):  # which does not know all characters
        texts = [TokenBytes(student).pieces(ids[1:-1]), TokenBytes(teacher).pieces(reading.ids)]
        own, theirs = (b"".join(pieces).replace("\u2581".encode(), b" ") for pieces in texts)
        assert own == theirs  # to SentencePiece, that character is a space
        check_prefixes(student, teacher, ids, reading, chunks)
        covered = [token for own, _ in chunks for token in own]
        assert covered == list(range(1, len(ids))), "after a token for the beginning, every token is of a chunk"
    assert (reading.ids[0], reading.ids[-1]) == (teacher.bos_token_id, teacher.eos_token_id)
    assert chunks[-1] == [[len(ids) - 1], [len(reading.ids) - 1]], "the end is one"


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_chunks_of_known_words_decode_to_the_same_text_for_all_kinds_of_tokenizers(one, other):
    """Among them lower case, lost spaces and normalised characters."""
    student, teacher = tokenizer_of(one), tokenizer_of(other)
    text = f"{'' if one == 'word_piece' else 'Über '}the cat sat on a mat and the road"
    ids = [student.bos_token_id, *ids_of(student, text)]
    reading, chunks = read(student, teacher, ids)
    check_prefixes(student, teacher, ids, reading, chunks)
    words = [student.decode([ids[token] for token in own]).strip() for own, _ in chunks]
    assert {"mat", "road"} <= set(words) or "bytes" in (one, other)


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(REAL, 2)))
def test_real_tokenizers_agree_on_odd_text(shared_data, one, other):
    student, teacher = (real_tokenizer(shared_data / name) for name in (one, other))
    text = "Once upon  a time, thére was a 🙂 cat.\n\tHe säid 日本 👩‍👩‍👧! e\u0301 <s> x=1;"
    ids = [student.bos_token_id, *ids_of(student, text), student.eos_token_id, *ids_of(student, "The end")]
    reading, chunks = read(student, teacher, ids)
    own = b"".join(TokenBytes(student).pieces(ids_of(student, text)))
    assert own == text.encode() == b"".join(TokenBytes(teacher).pieces(ids_of(teacher, text)))
    assert sum(len(tokens) for tokens, _ in chunks) == len(ids) - 1, "all but the beginning"
    assert reading.ids.count(teacher.eos_token_id) == 1 + (teacher.eos_token_id == teacher.bos_token_id)


def test_a_row_that_was_cut_inside_of_a_character_loses_that_character_alone():
    student, teacher = tokenizer_of("bytes"), tokenizer_of("byte_level")
    whole = ids_of(student, "日the cat日")
    ids = whole[2:-1]  # the last byte of one character, and the first two of another
    reading, chunks = read(student, teacher, ids)
    assert teacher.decode(reading.ids) == "the cat"
    spelt = ["".join(student.decode([ids[token] for token in own])) for own, _ in chunks]
    # Nothing predicts the teacher's first token, "the"; what is left of the characters is of no chunk.
    assert spelt == [" cat"]
    assert reading.student_chunks[[0, -1, -2]].tolist() == [-1, -1, -1]


def test_a_token_whose_bytes_are_no_text_is_of_no_chunk():
    """A token of two bytes, of which one belongs to a character that was cut."""
    student, teacher = tokenizer_of("byte_level"), tokenizer_of("bytes")
    alphabet = {
        byte: token for token, byte in ((i, TokenBytes(student).pieces([i])) for i in range(300)) for byte in byte
    }
    ids = [student.bos_token_id, alphabet[b"a"], alphabet[b"\xe6"], alphabet[b"b"]]
    reading, _ = read(student, teacher, ids)
    assert teacher.decode(reading.ids, skip_special_tokens=True) == "ab"
    assert reading.student_chunks.tolist() == [-1, 0, -1, 1]


def test_labels_that_do_not_count_are_in_no_chunk():
    student, teacher = tokenizer_of("byte_level"), tokenizer_of("bytes")
    ids = ids_of(student, "the cat sat")
    reading, chunks = read(student, teacher, ids, [False] * (len(ids) - 1) + [True])
    assert reading.student_chunks.tolist() == [-1] * (len(ids) - 1) + [0]
    assert teacher.decode([reading.ids[token] for token in chunks[0][1]]) == student.decode(ids[-1])


@pytest.mark.parametrize("limit", [2, 5, 7])
def test_what_the_teacher_does_not_read_any_more_is_in_no_chunk(limit):
    student, teacher = tokenizer_of("byte_level"), tokenizer_of("bytes")
    ids = ids_of(student, "the cat sat on")
    reading, chunks = read(student, teacher, ids, max_length=limit)
    assert len(reading.ids) == limit
    assert len(reading.teacher_chunks) == limit
    _, all_chunks = read(student, teacher, ids)
    assert chunks == [chunk for chunk in all_chunks if chunk[1][-1] < limit]


def test_special_tokens_are_translated_once_and_text_that_looks_like_them_stays_text():
    student, teacher = tokenizer_of("byte_level"), tokenizer_of("byte_fallback")
    begin, end, pad = teacher.bos_token_id, teacher.eos_token_id, student.pad_token_id
    own = [student.bos_token_id, *ids_of(student, "a"), student.eos_token_id, pad, *ids_of(student, "<s>")]
    reading, chunks = read(student, teacher, own)
    assert reading.ids == [begin, *ids_of(teacher, "a"), end, *ids_of(teacher, "<s>")]
    assert chunks[1] == [[2], [1 + len(ids_of(teacher, "a"))]]
    # This teacher's texts begin with a token of their own, whether the student's do or not; the other one's do not.
    assert read(student, teacher, own[1:])[0].ids == reading.ids
    assert read(teacher, student, [begin, *ids_of(teacher, "a")])[0].ids == [
        student.bos_token_id,
        *ids_of(student, "a"),
    ]
    assert read(teacher, student, ids_of(teacher, "a"))[0].ids == ids_of(student, "a")


def test_a_row_of_nothing_leaves_the_teacher_with_one_token():
    student, teacher = tokenizer_of("byte_level"), tokenizer_of("bytes")
    for ids in ([], [student.pad_token_id] * 3):
        reading, chunks = read(student, teacher, ids)
        assert len(reading.ids) == 1
        assert not chunks


def test_an_unknown_kind_of_tokenizer_is_refused():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE({"a</w>": 0, "a": 1}, [], end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ValueError, match="expected byte-level BPE, SentencePiece, WordPiece or whole words"):
        TokenBytes(PreTrainedTokenizerFast(tokenizer_object=tokenizer))
