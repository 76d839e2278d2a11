"""Queries and documents of words that the tiny tokenizers know, and models for them."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

from hf_distill.testing import tiny_tokenizer


def make_rows(num_queries: int, *, seed: int = 0, num_documents: int | None = None) -> list[dict[str, Any]]:
    """Queries with lists of documents, of different lengths unless said; the relevant one has the query's words."""
    rng = random.Random(seed)
    words = [f"w{index}" for index in range(5, 60)]
    rows = []
    for index in range(num_queries):
        query = rng.choices(words, k=rng.randint(2, 4))
        size = num_documents or 2 + index % 3
        documents = [rng.choices(words, k=rng.randint(3, 9)) for _ in range(size)]
        documents[index % size] += query
        labels = [int(place == index % size) for place in range(size)]
        scores = [rng.gauss(10 * label, 2) for label in labels]
        texts = [" ".join(one) for one in documents]
        rows.append({"query": " ".join(query), "documents": texts, "labels": labels, "teacher_scores": scores})
    return rows


def other_tokenizer() -> PreTrainedTokenizerFast:
    """The teacher's: the same words, other ids."""
    return tiny_tokenizer(vocab_size=60)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    """Four queries."""
    return make_rows(4)


@pytest.fixture
def dataset(rows: list[dict[str, Any]]) -> Dataset:
    """The same, as the trainer takes them."""
    return Dataset.from_list(rows)
