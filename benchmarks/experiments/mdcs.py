"""MDCS on long-tailed intents, against one head that learns the labels with as many forward passes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from datasets import Dataset
from hf_distill_classification.views import TwoViews, WordDropout
from transformers import DataCollatorWithPadding

from hf_distill import Plugins, transform

from . import classifiers
from .frame import Experiment
from .long_tail import by_frequency, imbalanced_counts, long_tailed
from .training import remembered, train

STEPS = 300
BUDGET = {"batch_size": 32, "learning_rate": 3e-3}


def counts() -> list[int]:
    """From 100 examples of an intent to 1."""
    return imbalanced_counts(len(classifiers.intents()), most=100, factor=100)


@functools.cache
def rows(seed: int) -> Dataset:
    """Long-tailed intents; their order is that of their names."""
    return long_tailed(classifiers.data()["train"], counts(), seed=seed)


@remembered
def train_labels(*, seed: int) -> dict[str, float]:
    """One head, labels, twice the steps: an MDCS step has two forward passes."""
    student = classifiers.new_classifier(classifiers.STUDENT, seed=seed)
    collator = DataCollatorWithPadding(classifiers.tokenizer())
    train(student, ["task"], rows(seed), seed=seed, steps=2 * STEPS, data_collator=collator, **BUDGET)
    return measure(student)


@remembered
def train_experts(options: Mapping[str, Any], *, seed: int, num_experts: int = 3) -> dict[str, float]:
    """Experts; the strong view has three tenths of its words masked."""
    student = classifiers.new_classifier(classifiers.STUDENT, seed=seed)
    transform(student, "experts", plugins=Plugins(["classification"]), num_experts=num_experts)
    tokenizer = classifiers.tokenizer()
    collator = TwoViews(DataCollatorWithPadding(tokenizer), strong=WordDropout(0.3, tokenizer))
    losses = [{"name": "mdcs", **options}]
    more = {"plugins": ["classification"], "data_collator": collator}
    train(student, losses, rows(seed), seed=seed, steps=STEPS, **more, **BUDGET)
    return measure(student)


@torch.no_grad()
def measure(student: torch.nn.Module) -> dict[str, float]:
    """Accuracies over all intents, the most and the least frequent third."""
    collator = DataCollatorWithPadding(classifiers.tokenizer())
    test = classifiers.data()["test"]
    logits, labels = [], []
    for start in range(0, len(test), 128):
        batch = collator([test[i] for i in range(start, min(start + 128, len(test)))])
        labels.append(batch.pop("labels"))
        logits.append(student(**batch).logits)
    return by_frequency(torch.cat(logits), torch.cat(labels), counts())


EXPERIMENT = Experiment(
    method="MDCS",
    package="hf-distill-classification",
    components=("loss mdcs", "student transform experts"),
    paper="Zhao et al. 2023, arXiv:2308.09922",
    evidence="faithful",
    what="Experts learn the labels with logits shifted by class frequency, each by another amount; the prediction is "
    "their mean. What an expert predicts of a weak view, where it is right, teaches it the strong view.",
    needs="Labels, a student made by the transform `experts`, and a collator of two views; no teacher.",
    expects="more right answers for the rare classes than by labels at one head, with as many forward passes",
    metric="tail",
    unit="share of the 15 rarest of 45 intents",
    better="higher",
    baseline="labels",
    arm="MDCS",
    arms={
        "labels": lambda seed: train_labels(seed=seed),
        "one expert, balanced": lambda seed: train_experts({"strengths": [1.0]}, seed=seed, num_experts=1),
        "MDCS without consistency": lambda seed: train_experts({"consistency": 0.0}, seed=seed),
        "MDCS": lambda seed: train_experts({}, seed=seed),
    },
    data=("clinc150",),
    reference="five long-tailed benchmarks, CIFAR-100-LT to iNaturalist 2018",
)
