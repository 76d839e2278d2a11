"""Text for language models: documents from anywhere, cut into splits, tokenised and packed into rows of one domain.

    data = load_packed_text({"texts": "python", "max_length": 128}, tokenizer)
    data = load_packed_text({"data_files": "notes/*.jsonl", "domain_column": "source"}, tokenizer)
    data = load_packed_text({"path": "wikitext", "name": "wikitext-2-raw-v1", "test_split": "test"}, tokenizer)

Each is a `DatasetDict` of train, probe and test with the columns input_ids, attention_mask, labels and domain.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from ..batch.signals import IGNORE_INDEX
from ..plugins.registry import did_you_mean
from .files import load_table
from .texts import load_texts, split_of

logger = logging.get_logger(__name__)

_FEATURES = Features(
    {
        "input_ids": List(Value("int32")),
        "attention_mask": List(Value("int8")),
        "labels": List(Value("int32")),
        "domain": Value("string"),
    }
)


@dataclass(frozen=True, kw_only=True)
class TextData:
    """Where text comes from and how it is cut; options of the tasks "causal_lm" and "masked_lm".

    Attributes:
        texts: "python" for text that every Python installation holds (`hf_distill.data.texts`), or a mapping of the
            arguments of `load_texts`.
        path: what `datasets.load_dataset` takes: a name on the hub, a folder, or a builder ("json", "text", ...).
        name: configuration of that data set.
        data_files: files or patterns, or a mapping of split to these; without `path`, their ending says how to read
            them (.json, .jsonl, .csv, .txt, .parquet, also with .gz).
        train_split: the split to train on.
        probe_split: the split that a selector measures models on; without one it is cut from the training split.
        test_split: the split to evaluate on; without one it is cut from the training split.
        probe_fraction, test_fraction: share of the documents to cut for a split that is not named; 0 for none. A
            document goes where a hash of its text says, so that copies of it stay together.
        text_column: the column that holds a document's text.
        domain_column: the column that holds its domain, called ``domain`` from here on; by default that column if there
            is one. Without one all text is of the domain "all".
        max_length: tokens of a row.
        probe_rows, test_rows: rows of each domain at most, evenly spaced over the split; all by default.
    """

    texts: str | Mapping[str, Any] | None = None
    path: str | None = None
    name: str | None = None
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None
    train_split: str = "train"
    probe_split: str | None = None
    test_split: str | None = None
    probe_fraction: float = 0.05
    test_fraction: float = 0.05
    text_column: str = "text"
    domain_column: str | None = None
    max_length: int = 512
    probe_rows: int | None = None
    test_rows: int | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> TextData:
        """What a mapping, of a YAML file for instance, says.

        Raises:
            ValueError: an unknown key, no source of text or two, a key without effect, or rows of less than two tokens.
        """
        known = [field.name for field in fields(cls)]
        for key in spec:
            if key not in known:
                raise ValueError(f"data has no option {key!r}{did_you_mean(key, known)}; there are {', '.join(known)}.")
        data = cls(**spec)
        if (data.texts is None) == (data.path is None and data.data_files is None):
            raise ValueError("data takes either texts, or path and/or data_files; say where the text comes from.")
        without_effect = [key for key in spec if key not in ("texts", "max_length", "probe_rows", "test_rows")]
        if data.texts is not None and without_effect:
            raise ValueError(
                f"data takes {', '.join(without_effect)} for what is loaded, not beside texts; the options of texts go "
                "in a mapping: `texts: {name: python, test_fraction: 0.1}`."
            )
        if data.max_length < 2:
            raise ValueError(f"max_length is {data.max_length}; a row needs at least two tokens, one to predict.")
        return data


def load_packed_text(spec: Mapping[str, Any] | TextData, tokenizer: PreTrainedTokenizerBase) -> DatasetDict:
    """Load the text that `spec` describes, tokenise it and pack it into rows.

    Args:
        spec: a `TextData`, or a mapping of its attributes.
        tokenizer: the student's.

    Returns:
        The splits train, probe and test (the latter two where there is text for them).

    Raises:
        ValueError: the text cannot be found, or a split that was asked for holds no text.
    """
    data = spec if isinstance(spec, TextData) else TextData.parse(spec)
    packed = {
        split: pack(documents, tokenizer, max_length=data.max_length)
        for split, documents in load_text_data(data).items()
    }
    for split, rows in (("probe", data.probe_rows), ("test", data.test_rows)):
        if split in packed and rows is not None:
            packed[split] = spread_by_domain(packed[split], rows)
    return DatasetDict(packed)


def load_text_data(spec: Mapping[str, Any] | TextData) -> DatasetDict:
    """The documents that `spec` describes: columns ``text`` and ``domain``, splits train, probe and test.

    Raises:
        ValueError: no such split or column, or no text in a split.
    """
    data = spec if isinstance(spec, TextData) else TextData.parse(spec)
    if data.texts is not None:
        options = {"name": data.texts} if isinstance(data.texts, str) else dict(data.texts)
        splits = dict(load_texts(**options))
    else:
        splits = _cut(_load(data), data)
    for split, documents in splits.items():
        if len(documents) == 0:
            raise ValueError(
                f"The {split} split holds no text. Give other documents, or change {split}_split or {split}_fraction."
            )
    return DatasetDict(splits)


def pack(documents: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Dataset:
    """Tokenise documents and cut each domain's tokens into rows.

    Documents of a domain follow one another, each ended by the tokenizer's end-of-sequence token (if it has one); rows
    are cut wherever `max_length` tokens are full. A domain's last row is padded, its labels there are -100.

    Args:
        documents: with the columns ``text`` and ``domain``.
        tokenizer: makes the token ids; adds no special tokens of its own.
        max_length: tokens of a row, S.

    Returns:
        A data set of rows ``input_ids``, ``attention_mask``, ``labels``, each ``[S]``, and ``domain``.
    """
    return Dataset.from_generator(
        _packed_rows,
        features=_FEATURES,
        gen_kwargs={"documents": documents, "tokenizer": tokenizer, "max_length": max_length},
    )


def spread_by_domain(rows: Dataset, count: int) -> Dataset:
    """At most `count` rows of each domain, evenly spaced over all that it has."""
    domains = np.asarray(rows["domain"])
    kept = []
    for domain in np.unique(domains):
        there = np.flatnonzero(domains == domain)
        kept += there[np.linspace(0, len(there) - 1, min(count, len(there))).round().astype(int)].tolist()
    return rows.select(sorted(kept))


def _packed_rows(documents: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[dict[str, Any]]:
    ending = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    waiting: dict[str, list[int]] = defaultdict(list)
    for batch in documents.iter(batch_size=256):
        encoded = tokenizer(batch["text"], add_special_tokens=False, verbose=False)["input_ids"]
        for domain, tokens in zip(batch["domain"], encoded, strict=True):
            queue = waiting[domain]
            queue += [*tokens, *ending]
            full = len(queue) - len(queue) % max_length
            for start in range(0, full, max_length):
                yield _row(queue[start : start + max_length], domain, max_length)
            del queue[:full]
    for domain, rest in waiting.items():
        if len(rest) > 1:  # a single token has nothing to predict
            yield _row(rest, domain, max_length)


def _row(tokens: list[int], domain: str, max_length: int) -> dict[str, Any]:
    padding = max_length - len(tokens)
    return {
        # Any token id will do where nothing attends; not every tokenizer has one for padding.
        "input_ids": tokens + tokens[-1:] * padding,
        "attention_mask": [1] * len(tokens) + [0] * padding,
        "labels": tokens + [IGNORE_INDEX] * padding,
        "domain": domain,
    }


def _load(data: TextData) -> DatasetDict:
    """What `datasets.load_dataset` gives, with the columns ``text`` and ``domain``."""
    loaded = load_table(data.path, data.name, data.data_files)
    return DatasetDict({split: _columns(rows, data, split) for split, rows in loaded.items()})


def _columns(rows: Dataset, data: TextData, split: str) -> Dataset:
    there = rows.column_names
    for column in filter(None, (data.text_column, data.domain_column)):
        if column not in there:
            raise ValueError(f"The {split} split has no column {column!r}; it has {', '.join(there)}.")
    if rows.features[data.text_column].dtype not in ("string", "large_string"):
        raise ValueError(f"Column {data.text_column!r} holds {rows.features[data.text_column].dtype}; expected text.")
    domain_column = data.domain_column or ("domain" if "domain" in there else None)
    domains = ["all"] * len(rows) if domain_column is None else list(rows[domain_column])
    if None in domains:
        raise ValueError(f"Row {domains.index(None)} of the {split} split has no {domain_column!r} (None).")
    renamed = rows.select_columns([data.text_column]).rename_columns({data.text_column: "text"})
    renamed = renamed.add_column("domain", [str(domain) for domain in domains])
    return renamed.filter(lambda row: bool(row["text"]))


def _cut(loaded: DatasetDict, data: TextData) -> dict[str, Dataset]:
    """The splits train, probe and test: those that are named, and those that are cut from the training split."""
    named = {"train": data.train_split, "probe": data.probe_split, "test": data.test_split}
    for split in filter(None, named.values()):
        if split not in loaded:
            raise ValueError(f"There is no split {split!r}; the data has {', '.join(loaded)}.")
    splits = {use: loaded[split] for use, split in named.items() if split is not None}
    fractions = {
        f"{use}_fraction": 0.0 if use in splits else getattr(data, f"{use}_fraction") for use in ("probe", "test")
    }
    members: dict[str, list[int]] = {"train": [], "probe": [], "test": []}
    for index, text in enumerate(splits["train"]["text"]):
        members[split_of(text, **fractions)].append(index)
    for use, indices in members.items():
        if use == "train" or indices:
            splits[use] = loaded[data.train_split].select(indices)
        elif fractions[f"{use}_fraction"] > 0:
            logger.warning(
                f"No document fell into the {use} split, so there is none. Give more documents, name a {use}_split or "
                f"raise {use}_fraction."
            )
    return splits
