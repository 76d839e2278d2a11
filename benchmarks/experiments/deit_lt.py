"""DeiT-LT on long-tailed digits, against a vision transformer that learns their labels alone."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher, PreTrainedModel, default_data_collator

from . import images
from .frame import Experiment
from .long_tail import by_frequency, imbalanced_counts, long_tailed
from .training import remembered, train

COUNTS = imbalanced_counts(10, most=90, factor=45)
STEPS = 1200


@functools.cache
def rows(seed: int) -> Dataset:
    """Digits from 90 examples of a zero to 2 of a nine."""
    return long_tailed(images.data()["train"], COUNTS, seed=seed)


def strongly_augmented(features: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch of digits that are moved by up to 4 of 32 pixels, with a square of 8 cut out: far from the teacher's."""
    batch: dict[str, Tensor] = default_data_collator(features)
    moved = []
    for pixels in batch["pixel_values"]:
        down, right, top, left = torch.randint(-4, 5, (2,)).tolist() + torch.randint(0, 25, (2,)).tolist()
        pixels = pixels.roll((down, right), (-2, -1))
        pixels[:, top : top + 8, left : left + 8] = 0
        moved.append(pixels)
    return {**batch, "pixel_values": torch.stack(moved)}


@functools.cache
def teacher_model(seed: int) -> PreTrainedModel:
    """A convolutional network that has learnt the same digits, without augmentation and with balanced softmax.

    Balanced softmax (Ren et al. 2020, arXiv:2007.10740) stands for the paper's LDAM or PaCo: a teacher for the tail.
    """
    teacher = images.new_classifier("resnet", images.SHAPES["teacher"]["resnet"], seed=seed)
    train(teacher, ["task"], rows(seed), seed=seed, compute_loss_func=balanced_softmax, **images.TEACHER_BUDGET)
    return teacher.eval()


def balanced_softmax(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """Cross-entropy with logits that are shifted by the logarithms of the class frequencies."""
    shifted = outputs.logits + torch.tensor(COUNTS).log()
    return torch.nn.functional.cross_entropy(shifted, labels, reduction="sum") / num_items_in_batch


@remembered
def train_student(losses: Sequence[Any], *, seed: int) -> dict[str, float]:
    """Train a vision transformer, with two heads unless it learns by labels alone."""
    shape = images.SHAPES["student"]["vit"]
    if losses == ["task"]:
        student = images.new_classifier("vit", shape, seed=seed)
    else:
        torch.manual_seed(seed)
        config = DeiTConfig(image_size=32, patch_size=8, num_channels=1, num_labels=10, initializer_range=0.1, **shape)
        student = DeiTForImageClassificationWithTeacher(config)
    train(
        student,
        losses,
        rows(seed),
        seed=seed,
        steps=STEPS,
        batch_size=32,
        learning_rate=1e-3,
        teacher=teacher_model(seed),
        plugins=["classification"],
        data_collator=strongly_augmented,
    )
    return measure(student)


@torch.no_grad()
def measure(student: PreTrainedModel) -> dict[str, float]:
    """Accuracies of the prediction, and of each head by itself."""
    test = images.data()["test"][:]
    outputs = student(pixel_values=test["pixel_values"])
    figures = by_frequency(outputs["logits"], test["labels"], COUNTS)
    for name in ("cls", "distillation"):
        if f"{name}_logits" in outputs:
            own = by_frequency(outputs[f"{name}_logits"], test["labels"], COUNTS)
            figures |= {f"{name}_{part}": own[part] for part in ("head", "tail")}
    return figures


EXPERIMENT = Experiment(
    method="DeiT-LT",
    package="hf-distill-classification",
    components=("loss deit_lt",),
    paper="Rangwani et al. 2024, arXiv:2404.02900",
    evidence="faithful",
    what="A vision transformer has a head for the labels and one for what a convolutional teacher takes strongly "
    "augmented images for. Late in training the second head's classes are weighted by how rare they are.",
    needs="Labels, a student with two heads, and a convolutional teacher of the same long-tailed data.",
    expects="more right answers for the rare classes than by the labels alone, in as many steps",
    metric="tail",
    unit="share of the four rarest of ten classes",
    better="higher",
    baseline="labels",
    arm="DeiT-LT",
    arms={
        "labels": lambda seed: train_student(["task"], seed=seed),
        "DeiT-LT without weights": lambda seed: train_student([{"name": "deit_lt", "reweight_from": 1}], seed=seed),
        "DeiT-LT": lambda seed: train_student(["deit_lt"], seed=seed),
    },
    reference="CIFAR-10-LT to iNaturalist 2018",
)
