"""A vision transformer for long-tailed images: handwritten digits, from 90 zeros to 2 nines (DeiT-LT).

    python examples/long_tail.py                       # a minute or two on one core
    python examples/long_tail.py --max_steps 3000      # any field of DistillationArguments

A convolutional network learns the same few images first, with a balanced softmax, and is the teacher. Options are in
long_tail.yaml; put your own data and models into `digits` and `main`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
import yaml
from datasets import Dataset
from sklearn.datasets import load_digits
from torch import Tensor

from hf_distill import DistillationArguments, DistillationTrainer

COUNTS = [90, 59, 39, 25, 17, 11, 7, 5, 3, 2]
STUDENT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TEACHER = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}


def digits() -> tuple[Dataset, Dataset]:
    """Long-tailed training images of 32 x 32 pixels, and as many of each digit to test on."""
    data = load_digits()
    pixels = ((data.images - data.images.mean()) / data.images.std()).astype(np.float32)
    pixels = pixels.repeat(4, axis=1).repeat(4, axis=2)[:, None]
    by_class = [np.flatnonzero(data.target == digit) for digit in range(10)]
    few = np.concatenate([rows[:count] for rows, count in zip(by_class, COUNTS, strict=True)])
    held_out = np.concatenate([rows[-80:] for rows in by_class])
    columns = [{"pixel_values": pixels[rows], "labels": data.target[rows]} for rows in (few, held_out)]
    train, test = (Dataset.from_dict(one).with_format("torch") for one in columns)
    return train, test


def augmented(features: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """A batch of images that are moved a little and have a square cut out, which student and teacher both see."""
    batch: dict[str, Tensor] = hf.default_data_collator(features)
    for pixels in batch["pixel_values"]:
        down, right = torch.randint(-4, 5, (2,)).tolist()
        top, left = torch.randint(0, 25, (2,)).tolist()
        pixels.copy_(pixels.roll((down, right), (-2, -1)))
        pixels[:, top : top + 8, left : left + 8] = 0
    return batch


def balanced_softmax(outputs: Any, labels: Tensor, num_items_in_batch: Tensor) -> Tensor:
    """Cross-entropy with logits shifted by the logarithms of the class frequencies (Ren et al. 2020, 2007.10740)."""
    shifted = outputs.logits + torch.tensor(COUNTS, device=labels.device).log()
    return torch.nn.functional.cross_entropy(shifted, labels, reduction="sum") / num_items_in_batch


def main() -> None:
    """Train the teacher, then the student, and say how they do on frequent and on rare digits."""
    parser = hf.HfArgumentParser(DistillationArguments)
    parser.set_defaults(**yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))
    (args,) = parser.parse_args_into_dataclasses()
    train, test = digits()
    hf.set_seed(args.seed)

    shape = {"num_channels": 1, "num_labels": 10}
    teacher = hf.ResNetForImageClassification(hf.ResNetConfig(**shape, **TEACHER))
    options = {"learning_rate": 2e-3, "save_strategy": "no", "report_to": "none", "use_cpu": args.use_cpu}
    arguments = hf.TrainingArguments(args.output_dir, max_steps=min(300, args.max_steps), **options)
    hf.Trainer(teacher, arguments, train_dataset=train, compute_loss_func=balanced_softmax).train()

    config = hf.DeiTConfig(**shape, **STUDENT, image_size=32, patch_size=8, initializer_range=0.1)
    student = hf.DeiTForImageClassificationWithTeacher(config)
    trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=train, data_collator=augmented)
    trainer.train()
    trainer.save_model()

    pixels, labels = (test[:][name].to(args.device) for name in ("pixel_values", "labels"))
    with torch.no_grad():
        said, taught = student.eval()(pixels), teacher.eval()(pixels)
    groups = {"all": labels >= 0, "frequent": labels < 3, "rare": labels > 5}
    heads = {"its head for labels": said.cls_logits, "its head for the teacher": said.distillation_logits}
    for name, logits in {"teacher": taught.logits, "student": said.logits, **heads}.items():
        right = (logits.argmax(-1) == labels).float()
        print(f"{name}:", ", ".join(f"{group} {right[chosen].mean():.2f}" for group, chosen in groups.items()))


if __name__ == "__main__":
    main()
