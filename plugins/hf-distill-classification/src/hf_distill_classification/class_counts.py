"""How many training examples there are of each class, and what follows from it for long-tailed data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def check_counts(counts: Sequence[int], num_classes: int, loss: str) -> Tensor:
    """Counts that the user gave, int64 ``[C]``.

    Raises:
        ValueError: there are more or fewer than classes, or none of them is positive.
    """
    if len(counts) != num_classes or min(counts) < 0 or sum(counts) <= 0:
        raise ValueError(
            f"class_counts of {loss} has {len(counts)} entries from {min(counts, default=0)} to "
            f"{max(counts, default=0)}; expected {num_classes}, one for each class, of at least 0."
        )
    return torch.tensor(list(counts), dtype=torch.int64)


def count_classes(dataset: Any, num_classes: int, loss: str, *, column: str = "labels") -> Tensor:
    """Count the labels of a data set, int64 ``[C]``.

    Raises:
        ValueError: it is a stream or has no such column, or labels that are no classes.
    """
    names = getattr(dataset, "column_names", None) or []
    column = next((name for name in (column, "label") if name in names), column)
    try:
        labels = torch.as_tensor(dataset[column][:])
        counts = torch.bincount(labels, minlength=num_classes)
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{loss} counts the classes of the training data, but cannot read a column {column!r} of whole numbers "
            f"({type(error).__name__}: {error}). Say how many examples of each class there are: class_counts=[...]."
        ) from error
    if len(counts) != num_classes:
        raise ValueError(f"{loss}: the training data has {len(counts)} classes, the student {num_classes}.")
    return counts


def class_balanced_weights(counts: Tensor, *, beta: float) -> Tensor:
    """``(1 - beta) / (1 - beta^n_c)``, over their mean over the classes, ``[C]`` in float64.

    A class without an example counts like one with a single one.

    Paper: Cui et al. (2019), Class-Balanced Loss Based on Effective Number of Samples, arXiv:1901.05555, eq. 4.
    """
    log_beta = math.log(beta) if beta > 0 else -math.inf
    weights = 1 / -torch.expm1(counts.clamp(min=1).double() * log_beta)
    return weights / weights.mean()
