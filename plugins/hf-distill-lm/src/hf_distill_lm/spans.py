"""Which tokens of a text belong together: words, or phrases of a simple chunker.

    data = dataset.map(lambda row: tokenize_with_spans(tokenizer, row["text"], max_length=256))

This makes the columns input_ids, attention_mask and span_ids.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

Unit = Literal["word", "phrase"]
NO_SPAN = -1

_WORD = re.compile("\\w+(?:['\u2019-]\\w+)*")
# A phrase begins with these: articles, prepositions, conjunctions, pronouns, auxiliaries.
_FIRST_WORDS = frozenset(
    "a an the this that these those my your his her its our their some any no every each of in on at by for from to "
    "with without into over under about after before between through and or but nor so because if when while as than "
    "who which i you he she it we they is are was were be been am has have had do does did will would can could shall "
    "should may might must not".split()
)


def find_spans(text: str, unit: Unit = "phrase") -> list[tuple[int, int]]:
    """Beginning and end of each word or phrase, in characters.

    A phrase is a run of words with nothing but spaces between them; it begins anew where a word that introduces one
    follows one that does not ("the old man | sat | on the bench").

    Raises:
        ValueError: an unknown unit.
    """
    if unit not in ("word", "phrase"):
        raise ValueError(f'unit is {unit!r}; expected "word" or "phrase".')
    words = [match.span() for match in _WORD.finditer(text)]
    if unit == "word":
        return words
    spans: list[tuple[int, int]] = []
    introduces = False
    for start, end in words:
        first = text[start:end].lower() in _FIRST_WORDS
        joined = bool(spans) and text[spans[-1][1] : start].strip(" ") == "" and not (first and not introduces)
        if joined:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
        introduces = first
    return spans


def span_ids(text: str, offsets: Sequence[tuple[int, int]], unit: Unit = "phrase") -> list[int]:
    """The number of the span that each token ends in, `NO_SPAN` for punctuation, spaces and special tokens.

    Args:
        text: what was tokenised.
        offsets: beginning and end of each token in it, as fast tokenizers give them; (0, 0) for special tokens.
        unit: "word" or "phrase".
    """
    number = [NO_SPAN] * len(text)
    for index, (start, end) in enumerate(find_spans(text, unit)):
        number[start:end] = [index] * (end - start)
    return [number[end - 1] if end > start else NO_SPAN for start, end in offsets]


def tokenize_with_spans(
    tokenizer: PreTrainedTokenizerBase, text: str, *, unit: Unit = "phrase", **options: Any
) -> dict[str, list[int]]:
    """Token ids, attention mask and the span of each token.

    Args:
        tokenizer: a fast one, which knows where in the text its tokens are.
        text: one text.
        unit: "word" or "phrase".
        options: of the tokenizer; truncation is on where `max_length` is given.

    Raises:
        ValueError: the tokenizer is not a fast one.
    """
    if not tokenizer.is_fast:
        raise ValueError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens are. Load a fast tokenizer, or make "
            "the column span_ids yourself: one number a token, -1 for none."
        )
    options = {"truncation": "max_length" in options, **options}
    encoded = tokenizer(text, return_offsets_mapping=True, **options)
    columns = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    return columns | {"span_ids": span_ids(text, encoded["offset_mapping"], unit)}
