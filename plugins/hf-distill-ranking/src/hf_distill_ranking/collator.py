"""Nested batches of queries and their documents, from rows of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_distill import IGNORE_INDEX

from .ranking import DOCUMENTS, PAIRS, QUERY

Row = Mapping[str, Any]


class RankingCollator:
    """Makes a nested batch: the queries, their documents, and both joined for a teacher, each padded by itself.

    A row has a ``query`` and

    - ``positive`` and ``negative`` (a text) or ``negatives`` (a list), the triples of Margin-MSE; or
    - ``documents``, a list, as long as it likes, with ``labels`` beside it, a whole number for each that says how
      relevant it is (0 for not at all); needed by evaluation and by losses that tell relevant documents from others.

    A teacher's scores, one for each document (the positive first), may stand in a column of their own.

    Args:
        tokenizer: the student's.
        teacher_tokenizer: the cross-encoder's, whatever the student's is; only needed where one is asked.
        max_length: queries and documents are cut to so many tokens, each.
        pair_max_length: both joined are cut to so many of the teacher's tokens, the longer one first.
        score_column: the column of a teacher's scores.

    Raises:
        ValueError: a row that lacks a column, or has lists of different lengths, or a score that is not finite.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        teacher_tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = 256,
        pair_max_length: int = 512,
        score_column: str = "teacher_scores",
    ) -> None:
        self.tokenizer, self.teacher_tokenizer = tokenizer, teacher_tokenizer
        self.max_length, self.pair_max_length = max_length, pair_max_length
        self.score_column = score_column

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The batch of some rows; its first tensors have one row a query."""
        lists = [documents_of_row(row) for row in rows]
        size = max(len(documents) for documents, _ in lists)
        batch: dict[str, Any] = {
            QUERY: self._encode([row["query"] for row in rows]),
            DOCUMENTS: self._encode([text for documents, _ in lists for text in documents]),
        }
        if self.teacher_tokenizer is not None:
            queries = [row["query"] for row, (documents, _) in zip(rows, lists, strict=True) for _ in documents]
            texts = [text for documents, _ in lists for text in documents]
            batch[PAIRS] = dict(
                self.teacher_tokenizer(
                    queries, texts, padding=True, truncation=True, max_length=self.pair_max_length, return_tensors="pt"
                )
            )
        batch["document_mask"] = torch.tensor([_padded([True] * len(texts), size, False) for texts, _ in lists])
        labels = [labels for _, labels in lists]
        if all(row_labels is not None for row_labels in labels):
            batch["labels"] = torch.tensor(
                [_padded(row_labels, size, IGNORE_INDEX) for row_labels in labels if row_labels is not None]
            )
        if all(row.get(self.score_column) is not None for row in rows):
            scores = [self._scores(row, len(documents)) for row, (documents, _) in zip(rows, lists, strict=True)]
            batch[self.score_column] = torch.tensor(
                [_padded(row_scores, size, 0.0) for row_scores in scores], dtype=torch.float32
            )
        return batch

    def _encode(self, texts: list[str]) -> dict[str, Any]:
        return dict(
            self.tokenizer(texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt")
        )

    def _scores(self, row: Row, num_documents: int) -> list[float]:
        scores = [float(score) for score in row[self.score_column]]
        if len(scores) != num_documents or not all(map(math.isfinite, scores)):
            raise ValueError(
                f"The query {row['query']!r} has {num_documents} documents and in {self.score_column!r} {scores}; "
                "expected a finite score for each document, in their order."
            )
        return scores


def documents_of_row(row: Row) -> tuple[list[str], list[int] | None]:
    """The documents of a row, the positive first where it is told apart, and how relevant each is, where that is said.

    Raises:
        ValueError: the row has none of the forms that `RankingCollator` describes.
    """
    if not isinstance(row.get("query"), str):
        raise ValueError(f"A row has the columns {', '.join(row)}; expected a text in query.")
    if row.get("positive") is not None:
        others = row.get("negatives") if row.get("negatives") is not None else row.get("negative")
        negatives = [others] if isinstance(others, str) else list(others or ())
        if not negatives:
            raise ValueError(f"The query {row['query']!r} has a positive, but neither negative nor negatives.")
        return [row["positive"], *negatives], [1, *[0] * len(negatives)]
    documents = list(row.get("documents") or ())
    if not documents:
        raise ValueError(
            f"The query {row['query']!r} has no documents; expected positive and negative(s), or a list in documents. "
            f"The row has the columns {', '.join(row)}."
        )
    labels = row.get("labels")
    if labels is not None and len(labels) != len(documents):
        raise ValueError(f"The query {row['query']!r} has {len(documents)} documents and {len(labels)} labels.")
    return documents, None if labels is None else list(labels)


def pairs_of(rows: Sequence[Row] | Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 512) -> Dataset:
    """Every query joined with each of its documents, tokenised for a cross-encoder: what `hf_distill.capture` takes.

    Collated with `DataCollatorWithPadding`, these are the examples that a `RankingCollator` of the same tokenizer and
    `pair_max_length` makes.
    """
    pairs = [(row["query"], text) for row in rows for text in documents_of_row(row)[0]]
    queries, texts = zip(*dict.fromkeys(pairs), strict=True)
    return Dataset.from_dict(dict(tokenizer(list(queries), list(texts), truncation=True, max_length=max_length)))


def _padded(values: list[Any], size: int, filler: Any) -> list[Any]:
    return [*values, *[filler] * (size - len(values))]
