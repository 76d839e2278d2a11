"""The latency-adjustable encoder: words leave a classifier of intents by the attention they receive, or by chance."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from experiments import classifiers
from experiments.frame import Experiment
from experiments.training import train
from hf_distill_prune import adjustable
from transformers import DataCollatorWithPadding

from hf_distill import LocalTeacher, Plugins, transform

from .ziplm import STEPS, calibration, layer_drop, measured_speed_up

SHARE, COEFFICIENT = 0.8, 0.5


@functools.cache
def profile(seed: int) -> list[float]:
    """Of the teacher, on 256 texts."""
    return adjustable.attention_profile(classifiers.teacher_model(), calibration(seed), share=SHARE)


def eliminating(seed: int) -> Any:
    """The teacher, whose words leave."""
    model = copy.deepcopy(classifiers.teacher_model()).requires_grad_(True)
    options = {"profile": profile(seed), "coefficient": COEFFICIENT}
    transform(model, "eliminate_words", plugins=Plugins(["prune"]), **options)
    return model


@contextlib.contextmanager
def by_chance() -> Iterator[None]:
    """Words leave whatever attention they receive; as many of them."""

    def scores(probabilities: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.rand(mask.shape).masked_fill(~mask, 0.0)

    with mock.patch.object(adjustable, "received_attention", scores):
        yield


def accuracy(model: Any) -> float:
    """Of held-out examples."""
    with torch.no_grad():
        return classifiers.measure_classifier(model.eval())["accuracy"]


def distilled(make: Callable[[int], Any], *, seed: int) -> dict[str, float]:
    """Train what `make` gives on 10 examples of each intent, their labels and the teacher, and measure it."""
    torch.manual_seed(seed)
    student = make(seed)
    before = accuracy(student)
    train(
        student,
        ["task", "forward_kl"],
        classifiers.some_of_each(classifiers.data()["train"], 10, seed=seed),
        seed=seed,
        steps=STEPS,
        batch_size=32,
        learning_rate=3e-4,
        teacher=LocalTeacher(classifiers.teacher_model(), tokenizer=classifiers.tokenizer()),
        data_collator=DataCollatorWithPadding(classifiers.tokenizer()),
        processing_class=classifiers.tokenizer(),
    )
    figures = {"accuracy_before": before, "accuracy": accuracy(student), "speed_up": measured_speed_up(student)}
    if hasattr(student.base_model.encoder, "elimination"):
        adjustable.set_speed(student, None)  # nothing is trained for it
        figures |= {"accuracy_full": accuracy(student), "speed_up_full": measured_speed_up(student)}
    return figures


def by_attention(seed: int) -> dict[str, float]:
    """Words leave by the attention that they receive."""
    return distilled(eliminating, seed=seed)


def at_random(seed: int) -> dict[str, float]:
    """Words leave at random."""
    with by_chance():
        return distilled(eliminating, seed=seed)


EXPERIMENT = Experiment(
    method="Latency-adjustable encoder",
    package="hf-distill-prune",
    components=("student adjustable",),
    paper="Kachuee and Sharifkhani 2022, arXiv:2201.03327",
    evidence="after the paper's description",
    what=f"A classifier of 4 blocks keeps {COEFFICIENT:g} of the words that receive {SHARE:g} of the attention in each "
    f"block, and is trained for {STEPS} steps like that; against words that leave by chance, as many of them, and half "
    "of the blocks. `accuracy_full` is with all words again, without training; `speed_up` is measured on the whole "
    "model, 64 texts of 32 tokens, beside other work on the same machine.",
    needs="Calibration texts; blocks like BERT's.",
    expects="higher accuracy than when words leave by chance",
    metric="accuracy",
    unit="share of held-out examples",
    better="higher",
    baseline="by chance",
    arm="by attention",
    arms={
        "layer-drop, 2 blocks": lambda seed: distilled(lambda _: layer_drop(2), seed=seed),
        "by chance": at_random,
        "by attention": by_attention,
    },
    data=("clinc150",),
)
