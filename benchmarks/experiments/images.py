"""Image classifiers for experiments: handwritten digits, a convolutional or transformer teacher, a tiny student.

    figures = distil_images(["task", "forward_kl"], seed=0, teacher="resnet", student="vit")
    figures["accuracy"]

The data are the 1,797 digits of 8 x 8 pixels that scikit-learn brings, enlarged to 32 x 32, which is what convolutional
networks are made for; 901 of them are held out. Teachers are trained once on the other 896 and kept in the cache folder
of hf_distill: "resnet", 2 stages of residual blocks (171,114 parameters, 99 % right), and "vit", 4 blocks of width 64
on 16 patches (139,978 parameters, 93 % right). Students see 10 examples of each digit: "vit", 2 blocks of width 32
(20,138 parameters, 87 % right without a teacher), or "resnet" (5,442 parameters, 96 %). An arm takes five to ten
seconds on one core.
core.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from sklearn.datasets import load_digits
from transformers import (
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_distill import DistillationTrainer, LocalTeacher
from hf_distill.demo.teacher import home

from .classifiers import some_of_each
from .language_models import compare
from .training import remembered, train

HELD_OUT = 901
TEACHER_BUDGET = {"steps": 400, "batch_size": 32, "learning_rate": 2e-3}
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "teacher": {
        "resnet": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [2, 2]},
        "vit": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4},
    },
    "student": {
        "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
        "vit": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4},
    },
}


@remembered
def distil_images(losses: Sequence[Any], **options: Any) -> dict[str, float]:
    """Train a student and measure it; takes what `train_images` takes, gives what `measure_images` gives."""
    teacher = options.get("teacher", "resnet")
    trainer = train_images(losses, **options)
    return measure_images(trainer.student, teacher=teacher if isinstance(teacher, str) else "resnet")


def train_images(
    losses: Sequence[Any],
    *,
    seed: int,
    teacher: Any = "resnet",
    student: str = "vit",
    plugins: Sequence[Any] = (),
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
        teacher: "resnet" or "vit", or whatever else the trainer takes.
        student: "vit" or "resnet".
        plugins: their names.
        per_class: examples of each digit.
        steps: of the optimizer.
        batch_size: examples a step.
        learning_rate: its peak.
        shape: fields of the student's configuration that differ.
        more: of `training.train`: arguments, data_collator, selector, callbacks.
    """
    return train(
        new_classifier(student, {**SHAPES["student"][student], **(shape or {})}, seed=seed),
        losses,
        some_of_each(data()["train"], per_class, seed=seed),
        seed=seed,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        teacher=LocalTeacher(teacher_model(teacher)) if isinstance(teacher, str) else teacher,
        plugins=plugins,
        **more,
    )


def new_classifier(family: str, shape: Mapping[str, Any], *, seed: int) -> PreTrainedModel:
    """A classifier of ten digits with random weights."""
    torch.manual_seed(seed)
    if family == "vit":
        config = ViTConfig(image_size=32, patch_size=8, num_channels=1, num_labels=10, initializer_range=0.1, **shape)
        return ViTForImageClassification(config)
    return ResNetForImageClassification(
        ResNetConfig(num_channels=1, num_labels=10, layer_type="basic", downsample_in_first_stage=False, **shape)
    )


@functools.cache
def teacher_model(family: str) -> Any:
    """The teacher, from the cache folder; trained there first where it is not."""
    versions = [module.__version__ for module in (torch, transformers)]
    key = json.dumps([family, SHAPES["teacher"][family], TEACHER_BUDGET, *versions])
    folder = home() / "methods" / f"digits-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        teacher = new_classifier(family, SHAPES["teacher"][family], seed=0)
        train(teacher, ["task"], data()["train"], seed=0, **TEACHER_BUDGET)
        with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
            teacher.save_pretrained(Path(unfinished) / "teacher")
            (Path(unfinished) / "teacher").rename(folder)
    return AutoModelForImageClassification.from_pretrained(folder).eval()


@functools.cache
def data() -> dict[str, Dataset]:
    """Columns pixel_values, ``[1, 32, 32]``, and labels, in the splits train and test."""
    digits = load_digits()
    pixels = ((digits.images - digits.images.mean()) / digits.images.std()).astype(np.float32)
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)[:, None]
    order = np.random.default_rng(0).permutation(len(pixels))
    return {
        split: Dataset.from_dict({"pixel_values": pixels[rows], "labels": digits.target[rows]}).with_format("torch")
        for split, rows in (("train", order[HELD_OUT:]), ("test", order[:HELD_OUT]))
    }


@torch.no_grad()
def measure_images(student: torch.nn.Module, *, teacher: str = "resnet") -> dict[str, float]:
    """Means over the held-out digits; see `language_models.measure_lm`."""
    test = data()["test"][:]
    logits = [model(pixel_values=test["pixel_values"]).logits for model in (student, teacher_model(teacher))]
    return compare(*logits, test["labels"])
