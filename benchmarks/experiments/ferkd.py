"""FerKD's labels on crops of digits, against the teacher's soft labels of all of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from . import images
from .frame import Experiment
from .training import remembered, train

CROPS = 20  # of each of 100 images
SIZES = (16, 32)  # pixels of 32, half the image to all of it


@functools.cache
def crops(seed: int) -> Dataset:
    """Random crops of ten images of each digit, in their size again."""
    rows = images.some_of_each(images.data()["train"], 10, seed=seed)[:]
    generator = torch.Generator().manual_seed(seed)
    made = [_crop(pixels, generator) for pixels in rows["pixel_values"] for _ in range(CROPS)]
    labels = rows["labels"].repeat_interleave(CROPS)
    return Dataset.from_dict({"pixel_values": torch.stack(made).numpy(), "labels": labels.numpy()}).with_format("torch")


def _crop(pixels: Tensor, generator: torch.Generator) -> Tensor:
    size = int(torch.randint(SIZES[0], SIZES[1] + 1, (), generator=generator))
    top, left = torch.randint(0, 32 - size + 1, (2,), generator=generator).tolist()
    part = pixels[:, top : top + size, left : left + size]
    return torch.nn.functional.interpolate(part[None], size=(32, 32), mode="nearest")[0]


def thresholds(seed: int) -> tuple[float, float]:
    """The confidences below which a tenth and three tenths of the crops are, our choice of the paper's first two."""
    teacher = images.teacher_model("resnet")
    with torch.no_grad():
        logits = teacher(pixel_values=crops(seed)[:]["pixel_values"]).logits
    confidence = logits.softmax(-1).amax(-1)
    lower, middle = confidence.quantile(torch.tensor([0.1, 0.3])).tolist()
    return lower, middle


@remembered
def distil_crops(losses: Sequence[Any], *, seed: int) -> dict[str, float]:
    """Train on the crops and measure on whole images."""
    losses = list(losses)
    if "ferkd" in losses:
        lower, middle = thresholds(seed)
        losses = [{"name": "ferkd", "lower": lower, "middle": middle}]
    student = images.new_classifier("vit", images.SHAPES["student"]["vit"], seed=seed)
    budget = {"steps": 300, "batch_size": 32, "learning_rate": 3e-3}
    teacher = images.teacher_model("resnet")
    train(student, losses, crops(seed), seed=seed, teacher=teacher, plugins=["classification"], **budget)
    return images.measure_images(student)


EXPERIMENT = Experiment(
    method="FerKD's labels",
    package="hf-distill-classification",
    components=("loss ferkd",),
    paper="Shen 2023, arXiv:2312.17473",
    evidence="after the paper's description",
    what="Of a crop that the teacher is unsure of, the true class is taught, smoothed; of one that shows it nothing, "
    "nothing is. The others have the teacher's soft label.",
    needs="Labels, crops or other augmentations, and thresholds of the teacher's confidence.",
    expects="more accuracy on whole images, in as many steps, than by soft labels of all crops",
    metric="accuracy",
    unit="share of 901",
    better="higher",
    baseline="soft labels",
    arm="FerKD's labels",
    arms={
        "labels": lambda seed: distil_crops(["task"], seed=seed),
        "soft labels": lambda seed: distil_crops(["forward_kl"], seed=seed),
        "FerKD's labels": lambda seed: distil_crops(["ferkd"], seed=seed),
    },
    reference="ImageNet",
)
