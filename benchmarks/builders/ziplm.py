"""ZipLM: a classifier of intents pruned to three times the speed, against other ways to a student that is as fast."""

from __future__ import annotations

import copy
import functools
import statistics
from typing import Any

import torch
from experiments import classifiers
from experiments.frame import Experiment
from experiments.training import train
from hf_distill_prune.structures import blocks_of, matrix
from hf_distill_prune.ziplm import column_sizes, prune
from transformers import DataCollatorWithPadding

from hf_distill import LatencyTable, LocalTeacher, build_student, measure_blocks, measure_seconds, sample_inputs

SPEED_UP, STEPS = 3.0, 60
WORKLOAD = {"batch_size": 64, "length": 32}


@functools.cache
def table() -> LatencyTable:
    """Of the teacher, on this machine."""
    sizes = column_sizes(classifiers.TEACHER["intermediate_size"])
    return measure_blocks(classifiers.teacher_model(), columns=sizes, **WORKLOAD, repeats=30)


@functools.cache
def calibration(seed: int) -> list[dict[str, Any]]:
    """256 texts that the training has, without their labels."""
    rows = classifiers.some_of_each(classifiers.data()["train"], 10, seed=seed).remove_columns("labels")
    collator = DataCollatorWithPadding(classifiers.tokenizer())
    return [collator([rows[i] for i in range(start, start + 32)]).data for start in range(0, 256, 32)]


@functools.cache
def pruned(seed: int) -> Any:
    """The student of ZipLM before training, with what was kept."""
    return build_student(
        classifiers.teacher_model(),
        lambda teacher: prune(teacher, calibration(seed), speed_up=SPEED_UP, table=table(), seed=seed),
    )


def without_update(seed: int) -> Any:
    """The heads and columns of ZipLM, the weights as they were."""
    model = copy.deepcopy(classifiers.teacher_model()).requires_grad_(True)
    record = pruned(seed).record
    for block, groups, columns in zip(blocks_of(model), record["kept_groups"], record["kept_columns"], strict=True):
        block.keep(groups, columns)
    return model


def by_magnitude(seed: int) -> Any:
    """As many heads and columns in each block as ZipLM left, those of the largest weights on the way out."""
    model = copy.deepcopy(classifiers.teacher_model()).requires_grad_(True)
    record = pruned(seed).record
    for block, heads, columns in zip(blocks_of(model), record["heads"], record["columns"], strict=True):
        by_head = matrix(block.attention_out).detach().square().sum(0).view(-1, block.group_width).sum(1)
        by_column = matrix(block.mlp_out).detach().square().sum(0)
        block.keep(*(sorted(one.topk(n).indices.tolist()) for one, n in ((by_head, heads), (by_column, columns))))
    return model


def random_weights(seed: int) -> Any:
    """The shape of ZipLM's student."""
    model = classifiers.new_classifier(classifiers.TEACHER, seed=seed)
    record = pruned(seed).record
    for block, heads, columns in zip(blocks_of(model), record["heads"], record["columns"], strict=True):
        block.keep(range(heads), range(columns))
    return model


def layer_drop(layers: int) -> Any:
    """So many of the blocks."""
    return build_student(classifiers.teacher_model(), "layer_drop", layers=layers).model


def measured_speed_up(student: Any) -> float:
    """Of the whole model over the teacher, the median of five pairs of runs; other work may disturb both."""
    inputs = sample_inputs(classifiers.teacher_model(), **WORKLOAD)
    ratios = []
    for _ in range(5):
        teacher, ours = (
            measure_seconds(lambda model=model: model(**inputs), warm_up=1, repeats=3)
            for model in (classifiers.teacher_model(), student)
        )
        ratios.append(teacher / ours)
    return statistics.median(ratios)


def distilled(make: Any, *, seed: int) -> dict[str, float]:
    """Train what `make` gives on 10 examples of each intent, their labels and the teacher, and measure it."""
    student = make(seed).eval()
    with torch.no_grad():
        before = classifiers.measure_classifier(student)["accuracy"]
    train(
        student,
        ["task", "forward_kl"],
        classifiers.some_of_each(classifiers.data()["train"], 10, seed=seed),
        seed=seed,
        steps=STEPS,
        batch_size=32,
        learning_rate=1e-3,  # the teacher's
        teacher=LocalTeacher(classifiers.teacher_model(), tokenizer=classifiers.tokenizer()),
        data_collator=DataCollatorWithPadding(classifiers.tokenizer()),
        processing_class=classifiers.tokenizer(),
    )
    figures = classifiers.measure_classifier(student)
    return {**figures, "accuracy_before": before, "speed_up": measured_speed_up(student)}


EXPERIMENT = Experiment(
    method="ZipLM",
    package="hf-distill-prune",
    components=("student ziplm",),
    paper="Kurtic et al. 2023, arXiv:2302.04089",
    evidence="after the paper's description",
    what="A classifier of 4 blocks loses heads and MLP columns until its table of latencies says three times as fast, "
    f"and is distilled for {STEPS} steps; so are students of that shape with the structures of the largest weights, "
    "with ZipLM's structures and the weights as they were, or with random weights, and one of a single block. "
    "`speed_up` is measured on the whole model, 64 texts of 32 tokens, beside other work on the same machine.",
    needs="Calibration texts; a family with a known layout.",
    expects="higher accuracy than magnitude pruning to the same shape, after the same training",
    metric="accuracy",
    unit="share of held-out examples",
    better="higher",
    baseline="magnitude, same shape",
    arm="ziplm",
    arms={
        "random weights, same shape": lambda seed: distilled(random_weights, seed=seed),
        "layer-drop, 1 block": lambda seed: distilled(lambda _: layer_drop(1), seed=seed),
        "magnitude, same shape": lambda seed: distilled(by_magnitude, seed=seed),
        "ziplm without update": lambda seed: distilled(without_update, seed=seed),
        "ziplm": lambda seed: distilled(lambda one: copy.deepcopy(pruned(one).model), seed=seed),
    },
    data=("clinc150",),
)
