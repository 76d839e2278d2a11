"""Rankings for ``hf-distill train`` and ``hf-distill stages``.

data: {preset: "hf_distill_ranking.data:rankings", train: train.jsonl, test: test.jsonl, teacher_tokenizer: path}
data: {preset: "hf_distill_ranking.data:function_search", num_documents: 8, scores: words}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from hf_distill import TrainingData

from .collator import RankingCollator, documents_of_row
from .functions import load_function_search
from .lexical import with_word_scores
from .measures import ranking_metrics


def rankings(
    tokenizer: PreTrainedTokenizerBase,
    *,
    train: str,
    test: str | None = None,
    teacher_tokenizer: str | None = None,
    max_length: int = 256,
    pair_max_length: int = 512,
    score_column: str = "teacher_scores",
    cutoff: int = 10,
) -> TrainingData:
    """Rankings from files of a JSON object a line, in the forms of `RankingCollator`.

    Args:
        tokenizer: the student's.
        train: what is trained on.
        test: what MRR and nDCG are measured on.
        teacher_tokenizer: folder or hub name of a cross-encoder whose scores are not in the files.
        max_length: of queries and documents, in tokens.
        pair_max_length: of both joined, in the teacher's.
        score_column: the column of a teacher's scores.
        cutoff: how many of the first documents the measures count.

    Raises:
        ValueError: a file that is not there, or whose first row is not of these forms.
    """
    data = {name: _read(path) for name, path in (("train", train), ("test", test)) if path is not None}
    collator = RankingCollator(
        tokenizer,
        teacher_tokenizer=_load(teacher_tokenizer),
        max_length=max_length,
        pair_max_length=pair_max_length,
        score_column=score_column,
    )
    return TrainingData(data["train"], data.get("test"), collator=collator, compute_metrics=ranking_metrics(cutoff))


def function_search(
    tokenizer: PreTrainedTokenizerBase,
    *,
    num_documents: int = 8,
    num_train: int | None = None,
    num_test: int | None = None,
    teacher_tokenizer: str | None = None,
    scores: str | None = None,
    max_length: int = 64,
    pair_max_length: int = 128,
) -> TrainingData:
    """The functions of the standard library by what they do; see `load_function_search`.

    Args:
        tokenizer: the student's.
        num_documents: of each query.
        num_train: how many queries to train on; all (about 3,500) by default.
        num_test: how many to measure on; all by default.
        teacher_tokenizer: folder or hub name of the cross-encoder.
        scores: "words" for a column teacher_scores of `BM25`, which stands in for a cross-encoder's.
        max_length: of queries and documents, in tokens.
        pair_max_length: of both joined, in the teacher's.

    Raises:
        ValueError: unknown scores.
    """
    if scores not in (None, "words"):
        raise ValueError(f'scores is {scores!r}; expected "words", or none.')
    rows = load_function_search(num_documents=num_documents)
    if scores is not None:
        rows = {split: with_word_scores(split_rows) for split, split_rows in rows.items()}
    collator = RankingCollator(
        tokenizer,
        teacher_tokenizer=_load(teacher_tokenizer),
        max_length=max_length,
        pair_max_length=pair_max_length,
    )
    train, test = Dataset.from_list(rows["train"][:num_train]), Dataset.from_list(rows["test"][:num_test])
    return TrainingData(train, test, collator=collator, compute_metrics=ranking_metrics())


def _read(path: str) -> Dataset:
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}.")
    rows: Any = Dataset.from_json(path)
    documents_of_row(rows[0])
    return rows


def _load(name: str | None) -> PreTrainedTokenizerBase | None:
    if name is None:
        return None
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    return tokenizer
