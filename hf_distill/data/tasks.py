"""``data:`` of every command and of `load_training_data`: one grammar, one loader. docs/data.md has it for users.

    {task: causal_lm, texts: python, max_length: 128}              # packed text, see `TextData`
    {task: masked_lm, data_files: notes.txt, mask_probability: 0.15}
    {task: labelled, data_files: tickets.csv}                      # texts with a class each, see `LabelledTextData`
    {task: pairs, data_files: nli.csv}                             # two texts and a label, see `PairData`
    {task: preset, preset: "package.module:function", ...}         # what a function of the tokenizer makes

Without ``task`` it is "preset" where there is that key, and "causal_lm" otherwise. Tasks of packages (rankings, for
instance) are presets: a function that returns `TrainingData` needs no registration, and the core need not know of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from datasets import Dataset
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    default_data_collator,
)

from ..plugins.registry import did_you_mean
from .labelled_texts import LabelledTexts, load_labelled_texts
from .language_modeling import load_packed_text
from .pairs import PairData, load_pairs
from .presets import PRESET, call_preset
from .training_data import TrainingData, accuracy, split_by_domain

_SPLITS = ("train", "pool", "held_out")
DEFAULT_TASK = "causal_lm"


def load_training_data(
    spec: Any, tokenizer: PreTrainedTokenizerBase | None = None, *, by_domain: bool = True
) -> TrainingData:
    """The data that `spec` describes.

    Args:
        spec: a mapping in the grammar above; or, from Python, a data set, a `TrainingData`, or a function of the
            tokenizer that makes one of them.
        tokenizer: the student's; tasks of text need it.
        by_domain: whether text of several domains is evaluated on each by itself, where `spec` does not say
            ``by_domain``.

    Raises:
        ValueError: an unknown task or option, nothing to be found, or text without a tokenizer.
    """
    if isinstance(spec, TrainingData):
        return spec
    if spec is None:
        raise ValueError("there is no data; give data: {task: ..., ...}.")
    if not isinstance(spec, Mapping):
        made = spec(tokenizer) if callable(spec) else spec
        return made if isinstance(made, TrainingData) else TrainingData(train=made)
    task, options = parse_task(spec)
    if tokenizer is None:
        raise ValueError(f"data of the task {task!r} is text, but there is no tokenizer; give tokenizer.")
    if task in ("causal_lm", "masked_lm"):
        options.setdefault("by_domain", by_domain)
    return _TASKS[task](options, tokenizer)


def parse_task(spec: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The task, and its options without it.

    Raises:
        ValueError: there is no such task.
    """
    options = dict(spec)
    task = options.pop("task", "preset" if PRESET in spec else DEFAULT_TASK)
    if task not in _TASKS:
        raise ValueError(f"data has no task {task!r}{did_you_mean(str(task), _TASKS)}; there are {', '.join(_TASKS)}.")
    return task, options


def _causal_lm(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    by_domain = options.pop("by_domain")
    splits = load_packed_text(options, tokenizer)
    test = splits.get("test")
    evaluation = split_by_domain(test) if by_domain else test
    return TrainingData(splits["train"], evaluation, splits.get("probe"), default_data_collator)


def _masked_lm(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    probability = options.pop("mask_probability", 0.15)
    if tokenizer.mask_token is None or not 0 < probability < 1:
        raise ValueError(
            f"data.mask_probability is {probability}; expected a share between 0 and 1, and a tokenizer with a mask "
            f"token (it has {tokenizer.mask_token!r})."
        )
    data = _causal_lm(options, tokenizer)
    data.collator = _Masking(DataCollatorForLanguageModeling(tokenizer, mlm_probability=probability))
    return data


class _Masking:
    """Masks tokens; the columns that packing adds beside the tokens are no business of the collator's."""

    def __init__(self, collator: DataCollatorForLanguageModeling) -> None:
        self.collator = collator

    def __call__(self, rows: list[Any]) -> Any:
        return self.collator([{key: row[key] for key in ("input_ids", "attention_mask")} for row in rows])


@dataclass(frozen=True, kw_only=True)
class LabelledTask:
    """What the task "labelled" takes beside the options of `LabelledTextData`.

    Attributes:
        split: what is trained on: "train", "pool" or "held_out".
        unlabelled: whether the labels are left out, for a teacher to give.
        max_length: tokens of a text; what is longer is cut.
    """

    split: str = "train"
    unlabelled: bool = False
    max_length: int = 512


def load_labelled_task(spec: Mapping[str, Any]) -> tuple[LabelledTask, LabelledTexts]:
    """The texts of a ``data:`` whose task is "labelled", not yet tokenised, and what it says beside.

    Raises:
        ValueError: another task or a wrong option, or the texts are of less than two classes.
    """
    task, options = parse_task(spec)
    if task != "labelled":
        raise ValueError(f"data is of the task {task!r}; expected labelled texts: data: {{task: labelled, ...}}.")
    names = [field.name for field in fields(LabelledTask)]
    settings = LabelledTask(**{name: options.pop(name) for name in names if name in options})
    if settings.split not in _SPLITS:
        raise ValueError(f"data.split is {settings.split!r}; expected {', '.join(_SPLITS)}.")
    texts = load_labelled_texts(options)
    if len(texts.labels) < 2:
        # A head of one output would be trained as a regression.
        raise ValueError(f"data has one class, {texts.labels[0]!r}; a classifier needs two.")
    return settings, texts


def _labelled(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    settings, texts = load_labelled_task({"task": "labelled", **options})
    train = _encode(getattr(texts, settings.split), texts, tokenizer, settings.max_length)
    if len(train) == 0:
        raise ValueError(f"data has no texts in the split {settings.split!r}; say its share.")
    return TrainingData(
        train=train.remove_columns("labels") if settings.unlabelled else train,
        evaluation=_encode(texts.validation, texts, tokenizer, settings.max_length),
        collator=DataCollatorWithPadding(tokenizer),
        labels=texts.labels,
        compute_metrics=accuracy,
    )


def _encode(
    rows: list[dict[str, str]], texts: LabelledTexts, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset:
    columns = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length) if rows else {}
    index = {label: position for position, label in enumerate(texts.labels)}
    return Dataset.from_dict({**columns, "labels": [index[row["label"]] for row in rows]})


def _pairs(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    known = [field.name for field in fields(PairData)]
    for key in options:
        if key not in known:
            raise ValueError(
                f"data of the task 'pairs' has no option {key!r}{did_you_mean(key, known)}; there are "
                f"{', '.join(known)}."
            )
    return load_pairs(PairData(**options), tokenizer)


def _preset(options: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> TrainingData:
    if PRESET not in options:
        raise ValueError("data of the task 'preset' has no preset: 'package.module:function'.")
    made = call_preset(options, tokenizer)
    if not isinstance(made, TrainingData):
        raise ValueError(
            f"The preset {options[PRESET]!r} made {type(made).__name__}; expected hf_distill.TrainingData."
        )
    return made


_TASKS: dict[str, Callable[[dict[str, Any], PreTrainedTokenizerBase], TrainingData]] = {
    "causal_lm": _causal_lm,
    "masked_lm": _masked_lm,
    "labelled": _labelled,
    "pairs": _pairs,
    "preset": _preset,
}
