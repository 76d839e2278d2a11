"""Long-tailed data for experiments: digits from 100 examples of a class to 2, intents from 100 to 1.

Test sets have as many examples of every class. "head" and "tail" are the accuracies on the classes with the most and
with the fewest examples, a third of them each (four of ten digits in the tail).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor


def imbalanced_counts(num_classes: int, *, most: int, factor: float) -> list[int]:
    """Examples of each class, falling exponentially from `most` to ``most / factor``."""
    return [max(1, round(most * factor ** (-index / (num_classes - 1)))) for index in range(num_classes)]


def long_tailed(rows: Dataset, counts: Sequence[int], *, seed: int) -> Dataset:
    """As many examples of each class as there are counts, drawn with `seed`; fewer where there are no more."""
    labels = torch.as_tensor(rows["labels"])
    generator = torch.Generator().manual_seed(seed)
    kept = []
    for label, count in enumerate(counts):
        own = (labels == label).nonzero().flatten()
        kept += own[torch.randperm(len(own), generator=generator)[:count]].tolist()
    return rows.select(kept)


def by_frequency(logits: Tensor, labels: Tensor, counts: Sequence[int]) -> dict[str, float]:
    """Accuracy over all, and over the classes with the most (head) and fewest examples (tail)."""
    order = torch.tensor(counts).argsort(descending=True, stable=True)
    third = len(counts) // 3
    right = (logits.argmax(-1) == labels).float()
    groups = {"head": order[:third], "tail": order[-(len(counts) - 2 * third) :]}
    figures = {name: float(right[torch.isin(labels, classes)].mean()) for name, classes in groups.items()}
    return {"accuracy": float(right.mean()), **figures}
