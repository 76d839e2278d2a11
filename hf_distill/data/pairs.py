"""The task "pairs": two texts and what they are to each other, for cross-encoders and classifiers of pairs.

    data: {task: pairs, data_files: nli.csv}                                   # columns first, second and label
    data: {task: pairs, path: glue, name: stsb, first_column: sentence1, second_column: sentence2}

A label that is a fraction is a value, and a regression head with one output is trained on it; any other is a class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedTokenizerBase

from .files import load_table, split_of
from .texts import position
from .training_data import TrainingData, accuracy


@dataclass(frozen=True, kw_only=True)
class PairData:
    """Where pairs come from; options of the task "pairs".

    Attributes:
        path: what `datasets.load_dataset` takes: a name on the hub, a folder, or a builder.
        name: configuration of that data set.
        data_files: files or patterns, or a mapping of split to these; their ending says how to read them.
        first_column, second_column, label_column: names of the columns.
        train_split: the split to train on.
        validation_split: the split to evaluate on; without one it is cut from the training split.
        validation_fraction: share of the pairs to cut for it, by a hash of the first text, so that pairs which share
            it stay together.
        max_length: tokens of both texts together.
    """

    path: str | None = None
    name: str | None = None
    data_files: str | Sequence[str] | Mapping[str, Any] | None = None
    first_column: str = "first"
    second_column: str = "second"
    label_column: str = "label"
    train_split: str = "train"
    validation_split: str | None = None
    validation_fraction: float = 0.1
    max_length: int = 512


def load_pairs(spec: PairData, tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    """Load, cut and tokenise pairs.

    Raises:
        ValueError: they cannot be found, a column, text or label is missing, or no row is left to train on.
    """
    if spec.path is None and spec.data_files is None:
        raise ValueError("data of the task 'pairs' needs path and/or data_files; say where the pairs come from.")
    if not 0 <= spec.validation_fraction < 1:
        raise ValueError(f"validation_fraction is {spec.validation_fraction}; expected a share from 0, less than 1.")
    found = load_table(spec.path, spec.name, spec.data_files)
    columns = [spec.first_column, spec.second_column, spec.label_column]
    train = split_of(found, spec.train_split, columns)
    if spec.validation_split is not None:
        validation = split_of(found, spec.validation_split, columns)
    else:
        train, validation = _cut(train, spec)
    if len(train) == 0:
        raise ValueError("No pair is left to train on; give more data, or change validation_fraction.")
    labels = _labels(train, spec)
    return TrainingData(
        train=_encode(train, labels, tokenizer, spec),
        evaluation=_encode(validation, labels, tokenizer, spec) if len(validation) else None,
        collator=DataCollatorWithPadding(tokenizer),
        labels=labels,
        compute_metrics=squared_error if labels is None else accuracy,
    )


def squared_error(prediction: EvalPrediction) -> dict[str, float]:
    """The mean of the squared differences to the labels."""
    predictions = prediction.predictions
    values = predictions[0] if isinstance(predictions, tuple) else predictions
    return {"mean_squared_error": float(((values.reshape(-1) - prediction.label_ids) ** 2).mean())}


def _cut(rows: Dataset, spec: PairData) -> tuple[Dataset, Dataset]:
    texts = list(rows[spec.first_column])
    order = sorted(set(map(str, texts)), key=lambda text: position(text, "cut"))
    held_out = set(order[: round(spec.validation_fraction * len(order))])
    kept = [index for index, text in enumerate(texts) if str(text) not in held_out]
    return rows.select(kept), rows.select(sorted(set(range(len(rows))) - set(kept)))


def _labels(rows: Dataset, spec: PairData) -> tuple[str, ...] | None:
    """The names of the classes; None where labels are values."""
    feature = rows.features[spec.label_column]
    if isinstance(feature, ClassLabel):
        return tuple(feature.names)
    if str(getattr(feature, "dtype", "")).startswith("float"):
        return None
    return tuple(sorted({str(label) for label in rows[spec.label_column]}))


def _encode(
    rows: Dataset, labels: tuple[str, ...] | None, tokenizer: PreTrainedTokenizerBase, spec: PairData
) -> Dataset:
    firsts, seconds, values = (list(rows[name]) for name in (spec.first_column, spec.second_column, spec.label_column))
    for number, row in enumerate(zip(firsts, seconds, values, strict=True)):
        if not (isinstance(row[0], str) and isinstance(row[1], str)) or row[2] is None:
            raise ValueError(f"Row {number} of the pairs is {row!r}; expected two texts and a label.")
    columns = tokenizer(firsts, seconds, truncation=True, max_length=spec.max_length)
    if labels is None:
        return Dataset.from_dict({**columns, "labels": [float(value) for value in values]})
    feature = rows.features[spec.label_column]
    names = [feature.int2str(value) if isinstance(feature, ClassLabel) else str(value) for value in values]
    index = {label: position for position, label in enumerate(labels)}
    if unknown := set(names) - index.keys():
        raise ValueError(
            f"The evaluation split has labels that the training split lacks: {', '.join(sorted(unknown))}."
        )
    return Dataset.from_dict({**columns, "labels": [index[name] for name in names]})
