"""Text classifiers for experiments: 45 intents of CLINC150, a teacher that saw all labels, a student that sees few.

    figures = distil_classifier(["task", "hidden_mse"], seed=0)
    figures["accuracy"]

The teacher is a BERT of 4 layers and width 128 on whole words, trained once on all 4,500 examples (about 30 seconds)
and kept in the cache folder of hf_distill; the student has 2 layers and width 64 and gets 10 examples of each intent.
1,350 examples are held out. The teacher gets 91 % of them right, a student that sees only its labels 79 %. An arm takes
five to ten seconds on one core.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
)

from hf_distill import DistillationTrainer, LocalTeacher
from hf_distill.demo.teacher import home

from .frame import SHARED
from .language_models import compare
from .training import remembered, train

DOMAINS = ("banking", "travel", "utility")
TEACHER = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
STUDENT = {
    **{"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4},
    "initializer_range": 0.1,  # with the usual 0.02 so small a student is slow to start
}
TEACHER_BUDGET = {"steps": 600, "batch_size": 32, "learning_rate": 1e-3}


@remembered
def distil_classifier(losses: Sequence[Any], **options: Any) -> dict[str, float]:
    """Train a student and measure it; takes what `train_classifier` takes, gives what `measure_classifier` gives."""
    return measure_classifier(train_classifier(losses, **options).student)


def train_classifier(
    losses: Sequence[Any],
    *,
    seed: int,
    plugins: Sequence[Any] = (),
    teacher: Any = None,
    per_class: int = 10,
    steps: int = 300,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    shape: Mapping[str, Any] | None = None,
    **more: Any,
) -> DistillationTrainer:
    """Train a new student and give the trainer.

    Args:
        losses: as the trainer takes them.
        seed: of the student's weights, of the examples it gets and of their order.
        plugins: their names.
        teacher: what the trainer takes; by default the one that saw all labels.
        per_class: examples of each intent, 100 at most.
        steps: of the optimizer.
        batch_size: examples a step.
        learning_rate: its peak.
        shape: fields of the student's `BertConfig` that differ.
        more: of `training.train`: arguments, data_collator, selector, callbacks.
    """
    more.setdefault("data_collator", DataCollatorWithPadding(tokenizer()))
    return train(
        new_classifier({**STUDENT, **(shape or {})}, seed=seed),
        losses,
        some_of_each(data()["train"], per_class, seed=seed),
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        teacher=LocalTeacher(teacher_model(), tokenizer=tokenizer()) if teacher is None else teacher,
        plugins=plugins,
        processing_class=tokenizer(),
        **more,
    )


def new_classifier(shape: Mapping[str, Any], *, seed: int) -> BertForSequenceClassification:
    """A classifier with random weights."""
    torch.manual_seed(seed)
    config = {"vocab_size": len(tokenizer()), "num_labels": len(intents()), "max_position_embeddings": 64}
    return BertForSequenceClassification(BertConfig(**config, **{"pad_token_id": 0, **shape}))


@functools.cache
def teacher_model() -> Any:
    """The teacher, from the cache folder; trained there first where it is not."""
    versions = [module.__version__ for module in (torch, transformers)]
    key = json.dumps([TEACHER, TEACHER_BUDGET, DOMAINS, *versions])
    folder = home() / "methods" / f"intents-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        teacher = new_classifier(TEACHER, seed=0)
        train(
            teacher,
            ["task"],
            data()["train"],
            seed=0,
            data_collator=DataCollatorWithPadding(tokenizer()),
            **TEACHER_BUDGET,
        )
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            teacher.save_pretrained(Path(unfinished) / "teacher")
            (Path(unfinished) / "teacher").rename(folder)
    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


@functools.cache
def texts() -> dict[str, list[tuple[str, str]]]:
    """Pairs of a text and its intent, by split."""
    folder = SHARED / "clinc150"
    domains = json.loads((folder / "domains.json").read_text())
    chosen = {intent for domain in DOMAINS for intent in domains[domain]}
    splits = json.loads(gzip.decompress((folder / "data_full.json.gz").read_bytes()))
    return {
        split: [(text, intent) for text, intent in splits[split] if intent in chosen] for split in ("train", "test")
    }


@functools.cache
def intents() -> list[str]:
    """The names of the classes."""
    return sorted({intent for _, intent in texts()["train"]})


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of the training texts in lower case."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(
        (text for text, _ in texts()["train"]),
        trainers.WordLevelTrainer(special_tokens=special, min_frequency=2, show_progress=False),
    )
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=words, **dict(zip(names, special, strict=True)))


@functools.cache
def data() -> dict[str, Dataset]:
    """Columns input_ids, attention_mask and labels, in the splits train and test."""
    classes = {name: index for index, name in enumerate(intents())}
    return {
        split: Dataset.from_dict(
            {
                **{k: v for k, v in tokenizer()([text for text, _ in pairs]).items() if k != "token_type_ids"},
                "labels": [classes[intent] for _, intent in pairs],
            }
        )
        for split, pairs in texts().items()
    }


def some_of_each(rows: Dataset, per_class: int, *, seed: int) -> Dataset:
    """`per_class` examples of each class, drawn with `seed`."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    labels, taken = rows["labels"], dict[int, int]()
    kept = []
    for index in order:
        label = labels[index]
        if taken.get(label, 0) < per_class:
            taken[label] = taken.get(label, 0) + 1
            kept.append(index)
    return rows.select(kept)


@torch.no_grad()
def measure_classifier(student: torch.nn.Module) -> dict[str, float]:
    """Means over the held-out examples; see `language_models.measure_lm`."""
    collator = DataCollatorWithPadding(tokenizer())
    logits: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    rows = data()["test"]
    for start in range(0, len(rows), 128):
        batch = collator([rows[i] for i in range(start, min(start + 128, len(rows)))])
        labels = batch.pop("labels")
        logits["student"].append(student(**batch).logits)
        logits["teacher"].append(teacher_model()(**batch).logits)
        logits.setdefault("labels", []).append(labels)
    return compare(*(torch.cat(logits[name]) for name in ("student", "teacher", "labels")))
