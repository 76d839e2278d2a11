"""Words and phrases of texts, and the tokens in them."""

from __future__ import annotations

import pytest
from hf_distill_lm.spans import find_spans, span_ids, tokenize_with_spans
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_distill.testing import tiny_tokenizer


def pieces(text, unit="phrase"):
    return [text[start:end] for start, end in find_spans(text, unit)]


def test_phrases_begin_at_words_that_introduce_one_and_end_at_punctuation():
    assert pieces("The old man sat on the bench, didn't he?") == ["The old man sat", "on the bench", "didn't", "he"]
    assert pieces("well-known towns") == ["well-known towns"]
    assert pieces("one\ntwo") == ["one", "two"]
    assert pieces("... 42 !") == ["42"]
    assert pieces("") == []


def test_words_stand_alone():
    assert pieces("The old man, didn't", "word") == ["The", "old", "man", "didn't"]


def test_each_token_gets_the_span_it_ends_in_and_marks_get_none():
    text = "ab cd, e"
    offsets = [(0, 0), (0, 1), (1, 2), (2, 5), (5, 6), (6, 8), (0, 0)]
    assert span_ids(text, offsets) == [-1, 0, 0, 0, -1, 1, -1]
    assert span_ids(text, offsets, "word") == [-1, 0, 0, 1, -1, 2, -1]


def test_a_fast_tokenizer_gives_the_columns_that_the_loss_reads():
    tokenizer = tiny_tokenizer()
    found = tokenize_with_spans(tokenizer, "w7 w9 . w12", unit="phrase")
    assert found["input_ids"] == [7, 9, 3, 12]
    assert found["attention_mask"] == [1] * 4
    assert found["span_ids"] == [0, 0, -1, 1]
    assert tokenize_with_spans(tokenizer, "w7 w9 . w12", max_length=2)["span_ids"] == [0, 0]


def test_pieces_of_a_word_stay_together():
    letters = Tokenizer(models.WordLevel({letter: index for index, letter in enumerate("?abc")}, unk_token="?"))
    letters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="?")
    assert tokenize_with_spans(tokenizer, "ab c", unit="word")["span_ids"] == [0, 0, -1, 1]


def test_a_tokenizer_that_does_not_know_places_is_an_error():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="Slow does not say where"):
        tokenize_with_spans(Slow(), "a")


def test_an_unknown_unit_is_an_error():
    with pytest.raises(ValueError, match="unit is 'clause'"):
        find_spans("a", "clause")
