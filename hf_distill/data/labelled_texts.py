"""Labelled texts for classifiers, from anywhere, cut into splits that share no text.

data = load_labelled_texts({"data_files": "tickets.csv"})
data.labels, data.train[0]      # ("billing", "delivery"), {"text": "where is my parcel", "label": "delivery"}
data = load_labelled_texts({"path": "PolyAI/banking77", "test_split": "test"})
data = load_labelled_texts({"texts": "docstrings", "pool_fraction": 0.6, "train_rows": 200})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from datasets import ClassLabel, DatasetDict

from ..plugins.registry import did_you_mean
from .docstrings import load_docstrings
from .files import load_table, split_of
from .texts import position

_CUT = ("validation", "test", "held_out", "pool")
Rows = list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class LabelledTextData:
    """Where labelled texts come from and how they are cut; options of the task "labelled".

    Attributes:
        texts: "docstrings", for those of the standard library by module (`hf_distill.data.docstrings`).
        path: what `datasets.load_dataset` takes: a name on the hub, a folder, or a builder.
        name: configuration of that data set.
        data_files: files or patterns, or a mapping of split to these; without `path`, their ending says how to read
            them (.csv, .tsv, .json, .jsonl, .parquet, also with .gz).
        text_column, label_column: names of the two columns.
        labels: the taxonomy, where it has classes that the data has no example of; by default what the data has.
        train_split: the split to train on, and to cut the others from.
        validation_split, test_split: splits that are there already.
        validation_fraction, test_fraction, held_out_fraction, pool_fraction: share of the texts to cut for a split that
            is not named. Copies of a text stay together. "held_out" is for `error_source`, "pool" for a teacher that
            owns a hidden set of labelled texts.
        train_rows: how many of the remaining rows to begin with; all by default.
    """

    texts: str | None = None
    path: str | None = None
    name: str | None = None
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None
    text_column: str = "text"
    label_column: str = "label"
    labels: Sequence[str] | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str | None = None
    validation_fraction: float = 0.2
    test_fraction: float = 0.0
    held_out_fraction: float = 0.0
    pool_fraction: float = 0.0
    train_rows: int | None = None

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> LabelledTextData:
        """What a mapping, of a YAML file for instance, says.

        Raises:
            ValueError: an unknown key, no source or two, or shares that leave nothing to train on.
        """
        known = [one.name for one in fields(cls)]
        for key in spec:
            if key not in known:
                raise ValueError(f"data has no option {key!r}{did_you_mean(key, known)}; there are {', '.join(known)}.")
        data = cls(**spec)
        if (data.texts is None) == (data.path is None and data.data_files is None):
            raise ValueError("data takes either texts, or path and/or data_files; say where the texts come from.")
        if data.texts not in (None, "docstrings"):
            raise ValueError(f'There are no labelled texts called {data.texts!r}; there is "docstrings".')
        shares = data.shares
        if min(shares.values()) < 0 or sum(shares.values()) >= 1:
            raise ValueError(f"The splits to cut take {shares}; expected shares from 0, together less than 1.")
        return data

    @property
    def shares(self) -> dict[str, float]:
        """How much to cut for each split that is not named."""
        named = {"validation": self.validation_split, "test": self.test_split}
        return {split: 0.0 if named.get(split) else getattr(self, f"{split}_fraction") for split in _CUT}


@dataclass
class LabelledTexts:
    """Labelled texts, ``{"text": ..., "label": name}``, by what they are for.

    Attributes:
        labels: the taxonomy, names in the order of their ids.
        train: to train on.
        validation: to choose the best student by.
        test: to be seen once, at the end.
        held_out: to look for errors in.
        pool: what a teacher knows.
    """

    labels: tuple[str, ...]
    train: Rows
    validation: Rows
    test: Rows = field(default_factory=list)
    held_out: Rows = field(default_factory=list)
    pool: Rows = field(default_factory=list)


def load_labelled_texts(spec: Mapping[str, Any] | LabelledTextData) -> LabelledTexts:
    """Load what `spec` describes.

    Raises:
        ValueError: it cannot be found, a column or split is missing, a row has no text or label, or the labels given
            lack one that the data has.
    """
    data = spec if isinstance(spec, LabelledTextData) else LabelledTextData.parse(_without_task(spec))
    if data.texts is not None:
        loaded = {data.train_split: load_docstrings()}
    else:
        found = load_table(data.path, data.name, data.data_files)
        wanted = (data.train_split, data.validation_split, data.test_split)
        loaded = {split: _rows(found, split, data) for split in wanted if split is not None}
    splits = _cut(loaded[data.train_split], data.shares)
    splits |= {
        use: loaded[split]
        for use, split in (("validation", data.validation_split), ("test", data.test_split))
        if split is not None
    }
    splits["train"] = splits["train"][: data.train_rows]
    for use in ("train", "validation"):
        if not splits[use]:
            raise ValueError(f"No row is left for {use}; give more data, or change the shares to cut.")
    there = {row["label"] for rows in splits.values() for row in rows}
    labels = tuple(map(str, data.labels)) if data.labels is not None else tuple(sorted(there))
    if unknown := there - set(labels):
        raise ValueError(f"data.labels lacks {', '.join(sorted(unknown))}, which the data has.")
    return LabelledTexts(labels, **splits)


def _without_task(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A ``data:`` of a configuration, of which the task is known here and the length is the tokenizer's business."""
    options = dict(spec)
    if (task := options.pop("task", "labelled")) != "labelled":
        raise ValueError(f"data is of the task {task!r}; expected labelled texts.")
    options.pop("max_length", None)
    return options


def _rows(found: DatasetDict, split: str, data: LabelledTextData) -> Rows:
    """The rows of a split; a label is a name, also where the data has ids."""
    rows = split_of(found, split, [data.text_column, data.label_column])
    texts, labels = list(rows[data.text_column]), list(rows[data.label_column])
    kind = rows.features[data.label_column]
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not isinstance(text, str) or not text.strip() or label is None or label == "":
            raise ValueError(
                f"Row {number} of the {split} split has text {text!r} and label {label!r}; both must be there."
            )
    names = [kind.int2str(label) if isinstance(kind, ClassLabel) else str(label) for label in labels]
    return [{"text": text.strip(), "label": name} for text, name in zip(texts, names, strict=True)]


def _cut(rows: Rows, shares: Mapping[str, float]) -> dict[str, Rows]:
    """Rows in an order that looks random and is the same everywhere, cut by the hash of their text."""
    order = sorted({row["text"] for row in rows}, key=lambda text: position(text, "cut"))
    use_of: dict[str, str] = {}
    start = 0
    for use, share in shares.items():
        count = round(share * len(order))
        use_of |= dict.fromkeys(order[start : start + count], use)
        start += count
    splits: dict[str, Rows] = {use: [] for use in (*shares, "train")}
    for row in sorted(rows, key=lambda row: position(row["text"], "cut")):
        splits[use_of.get(row["text"], "train")].append(row)
    return splits
