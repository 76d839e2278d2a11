"""Classifiers of one base for merging: one learns banking, the other travel, on 45 intents of CLINC150.

The base has seen 5 examples of every intent; both have its head.
"""

from __future__ import annotations

import copy
import functools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from experiments import classifiers
from experiments.frame import SHARED
from experiments.training import train
from hf_distill_weightmaps.merge_command import Merge, merge_checkpoints
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding

DOMAINS = ("banking", "travel")


@functools.cache
def rows(domain: str, split: str) -> Dataset:
    """The examples of one domain, labelled with all 45 intents."""
    domains = json.loads((SHARED / "clinc150" / "domains.json").read_text())
    known = {classifiers.intents().index(intent) for intent in domains[domain]}
    data = classifiers.data()[split]
    return data.select([index for index, label in enumerate(data["labels"]) if label in known])


def fit(model: Any, data: Dataset, *, seed: int, steps: int, learning_rate: float) -> Any:
    """Train `model` in place."""
    collator = DataCollatorWithPadding(classifiers.tokenizer())
    budget = {"steps": steps, "batch_size": 32, "learning_rate": learning_rate}
    train(model, ["task"], data, seed=seed, data_collator=collator, **budget)
    return model


@functools.cache
def models(seed: int) -> dict[str, Any]:
    """The base and what was finetuned from it, by domain."""
    few = classifiers.some_of_each(classifiers.data()["train"], 5, seed=seed)
    base = fit(
        classifiers.new_classifier(classifiers.TEACHER, seed=seed), few, seed=seed, steps=150, learning_rate=1e-3
    )
    tuned = {
        domain: fit(copy.deepcopy(base), rows(domain, "train"), seed=seed, steps=100, learning_rate=1e-4)
        for domain in DOMAINS
    }
    return {"base": base, **tuned}


@torch.no_grad()
def accuracy(model: Any, domain: str) -> float:
    """The share of held-out examples of a domain that are right among all 45 intents."""
    collator = DataCollatorWithPadding(classifiers.tokenizer())
    data, right = rows(domain, "test"), 0
    for start in range(0, len(data), 128):
        batch = collator([data[index] for index in range(start, min(start + 128, len(data)))])
        labels = batch.pop("labels")
        right += int((model(**batch).logits.argmax(-1) == labels).sum())
    return right / len(data)


def merged(seed: int, names: tuple[str, ...], options: Mapping[str, Any]) -> Any:
    """One model out of those of `names`."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("base", *names):
            models(seed)[name].save_pretrained(Path(folder) / name)
        paths = [f"{folder}/{name}" for name in names]
        spec = Merge(base=f"{folder}/base", models=paths, output_dir=f"{folder}/merged", seed=seed, **options)
        return AutoModelForSequenceClassification.from_pretrained(merge_checkpoints(spec)).eval()


def on_both(model: Any) -> dict[str, float]:
    """The mean of both accuracies, and each."""
    found = {domain: accuracy(model, domain) for domain in DOMAINS}
    return {"accuracy": sum(found.values()) / len(found), **found}
