"""What losses on whole examples read: labels, logits, and the module that makes these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, Rows, Signal


def num_classes(student: nn.Module, loss: str) -> int:
    """How many classes a classifier of examples has.

    Raises:
        ValueError: the student is none.
    """
    config: Any = getattr(student, "config", None)
    if "Classification" not in type(student).__name__ or not hasattr(config, "num_labels"):
        raise ValueError(f"{loss} is for classifiers, but the student is a {type(student).__name__}.")
    return int(config.num_labels)


def logits_of(signal: Signal, loss: str, *, whose: str) -> Tensor:
    """A model's finished logits, ``[..., C]``.

    Raises:
        ValueError: it has a vocabulary, or is a cache that keeps only some.
    """
    rows = signal.rows
    if not isinstance(rows, Rows) or rows.logits is None:
        raise ValueError(
            f"{loss} reads the logits of all classes, but the {whose} gives "
            f"{'nothing' if rows is None else 'hidden states' if isinstance(rows, Rows) else 'a few probabilities'}. "
            "Use a classifier, and a teacher that is there."
        )
    return rows.logits


def class_labels(batch: Batch, loss: str) -> Tensor:
    """The class of each example, ``[B]``; 0 where it does not count (see `Batch.row_mask`). Soft ones stay ``[B, C]``.

    Raises:
        ValueError: the batch has none.
    """
    if batch.labels is None:
        raise ValueError(f"{loss} reads the class of each example, but the batch has no labels. Add such a column.")
    return batch.labels if batch.labels.is_floating_point() else batch.labels.clamp(min=0)


def classifier_path(student: nn.Module, classes: int, loss: str, path: str | None) -> str:
    """Where the layer is that makes a student's logits: the last linear one with as many outputs as classes, or `path`.

    Raises:
        ValueError: there is none.
    """
    layers: dict[str, nn.Linear] = {k: module for k, module in student.named_modules() if isinstance(module, nn.Linear)}
    found = [name for name, module in layers.items() if module.out_features == classes]
    if path is None and found:
        return found[-1]
    if path is not None and path in layers:
        return path
    raise ValueError(
        f"{loss} needs the linear layer of {type(student).__name__} that makes its {classes} logits; "
        + (f"there is none called {path!r}." if path else "there is none of that width.")
        + f" Say which: classifier={found[-1] if found else next(reversed(layers), '...')!r}."
    )


def last_token(features: Tensor, token_mask: Tensor) -> Tensor:
    """One vector an example, ``[B, H]``: what a classifier reads of ``[B, H]``, ``[B, C, 1, 1]``, or ``[B, S, H]``.

    Of positions it is the last one that is no padding, as in causal models.
    """
    if features.dim() != 3:
        return features.flatten(1)
    positions = torch.arange(features.shape[1], device=features.device)
    last = (
        torch.where(token_mask, positions, 0).amax(-1)
        if token_mask.dim() == 2
        else positions[-1:].expand(len(features))
    )
    return features.gather(1, last[:, None, None].expand(-1, 1, features.shape[-1])).squeeze(1)
