"""What a stage trains on, from a mapping.

    {texts: python, max_length: 128}                       # packed text, see `TextData`
    {data_files: notes.txt, max_length: 128, masked: 0.15} # the same for masked language models
    {labelled: {data_files: tickets.csv}}                  # labelled texts, see `LabelledTextData`
    {labelled: {...}, split: pool, unlabelled: true}       # other texts of these, without labels
    {preset: "package.module:function", ...}               # what a function of the tokenizer and its options makes

or, from Python, a data set, a `TrainingData`, or a function of the tokenizer that makes one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from ..plugins.registry import did_you_mean
from .labelled_texts import LabelledTexts, load_labelled_texts
from .language_modeling import load_packed_text
from .presets import PRESET, call_preset

_SPLITS = ("train", "pool", "held_out")


@dataclass
class TrainingData:
    """The data of a stage, as the trainer takes it.

    Attributes:
        train: what is trained on.
        evaluation: what is evaluated on, at the end of the stage at least.
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


@dataclass(frozen=True, kw_only=True)
class _LabelledSpec:
    labelled: Mapping[str, Any]
    split: str = "train"
    unlabelled: bool = False
    max_length: int = 512


def load_training_data(spec: Any, tokenizer: PreTrainedTokenizerBase | None, *, stage: str) -> TrainingData:
    """The data that `spec` describes.

    Raises:
        ValueError: there is none, it cannot be found, or it is text and there is no tokenizer.
    """
    if isinstance(spec, TrainingData):
        return spec
    if spec is None:
        raise ValueError(f"The stage {stage!r} has no data; give it, there or for all stages.")
    if not isinstance(spec, Mapping):
        made = spec(tokenizer) if callable(spec) else spec
        return made if isinstance(made, TrainingData) else TrainingData(train=made)
    if tokenizer is None:
        raise ValueError(f"The data of the stage {stage!r} is text, but there is no tokenizer; give tokenizer.")
    if PRESET in spec:
        return from_preset(spec, tokenizer)
    return _labelled(spec, tokenizer, stage) if "labelled" in spec else _packed(spec, tokenizer, stage)


def from_preset(spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    """The data that a preset makes; how plugins bring data of their own.

    Raises:
        ValueError: it cannot be found, it refuses its options, or it makes something else.
    """
    made = call_preset(spec, tokenizer)
    if not isinstance(made, TrainingData):
        raise ValueError(f"The preset {spec[PRESET]!r} made {type(made).__name__}; expected hf_distill.TrainingData.")
    return made


def _packed(spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, stage: str) -> TrainingData:
    options = dict(spec)
    masked = options.pop("masked", None)
    collator: Any = default_data_collator
    if masked is not None:
        if tokenizer.mask_token is None or not 0 < masked < 1:
            raise ValueError(
                f"masked of the stage {stage!r} is {masked}; expected a share between 0 and 1, and a tokenizer with a "
                f"mask token (it has {tokenizer.mask_token!r})."
            )
        collator = _Masking(DataCollatorForLanguageModeling(tokenizer, mlm_probability=masked))
    splits = load_packed_text(options, tokenizer)
    return TrainingData(splits["train"], splits.get("test"), splits.get("probe"), collator)


class _Masking:
    """Masks tokens; the columns that packing adds beside the tokens are no business of the collator's."""

    def __init__(self, collator: DataCollatorForLanguageModeling) -> None:
        self.collator = collator

    def __call__(self, rows: list[Any]) -> Any:
        return self.collator([{key: row[key] for key in ("input_ids", "attention_mask")} for row in rows])


def _labelled(spec: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, stage: str) -> TrainingData:
    known = [one.name for one in fields(_LabelledSpec)]
    for key in spec:
        if key not in known:
            hint = did_you_mean(str(key), known)
            raise ValueError(f"data of the stage {stage!r} has no option {key!r}{hint}; there are {', '.join(known)}.")
    options = _LabelledSpec(**spec)
    if options.split not in _SPLITS:
        raise ValueError(f"data.split of the stage {stage!r} is {options.split!r}; expected {', '.join(_SPLITS)}.")
    texts = load_labelled_texts(options.labelled)
    if len(texts.labels) < 2:
        # A head of one output would be trained as a regression.
        raise ValueError(f"data of the stage {stage!r} has one class, {texts.labels[0]!r}; a classifier needs two.")
    train = _encode(getattr(texts, options.split), texts, tokenizer, options.max_length)
    if len(train) == 0:
        raise ValueError(f"data of the stage {stage!r} has no texts in the split {options.split!r}; say its share.")
    return TrainingData(
        train=train.remove_columns("labels") if options.unlabelled else train,
        evaluation=_encode(texts.validation, texts, tokenizer, options.max_length),
        collator=DataCollatorWithPadding(tokenizer),
        labels=texts.labels,
        compute_metrics=accuracy,
    )


def _encode(
    rows: Sequence[Mapping[str, str]], texts: LabelledTexts, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    columns = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length) if rows else {}
    index = {label: position for position, label in enumerate(texts.labels)}
    return Dataset.from_dict({**columns, "labels": [index[row["label"]] for row in rows]})


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of examples whose most likely class is their label."""
    predictions = prediction.predictions
    logits = predictions[0] if isinstance(predictions, tuple) else predictions
    return {"accuracy": float((logits.argmax(-1) == prediction.label_ids).mean())}
