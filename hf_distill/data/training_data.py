"""What a training is given as data, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset
from transformers import EvalPrediction


@dataclass
class TrainingData:
    """Data as the trainer takes it.

    Attributes:
        train: what is trained on.
        evaluation: what is evaluated on; a mapping of name to data set where several are, each by itself.
        probe: what a selector measures the models on.
        collator: makes batches; by default the trainer's own.
        labels: the names of the classes, for heads that are made anew.
        compute_metrics: what evaluation measures beside the losses.
    """

    train: Any
    evaluation: Any = None
    probe: Any = None
    collator: Callable[[list[Any]], Any] | None = None
    labels: Sequence[str] | None = None
    compute_metrics: Callable[[EvalPrediction], dict[str, float]] | None = None


def split_by_domain(rows: Dataset | None) -> Any:
    """One data set for each value of the column ``domain``, by name, where there are several; the rows otherwise."""
    if rows is None or "domain" not in rows.column_names or len(domains := sorted(set(rows["domain"]))) < 2:
        return rows
    column = list(rows["domain"])
    return {name: rows.select([index for index, domain in enumerate(column) if domain == name]) for name in domains}


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of examples whose most likely class is their label."""
    predictions = prediction.predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}
