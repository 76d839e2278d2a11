"""What losses on the labels of examples share: labels that count, and logits of one row an example."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Batch, Signal, as_float32


def labels_of(batch: Batch, loss: str) -> tuple[Tensor, Tensor]:
    """Class numbers, 0 where there is none, and which count, both ``[B]``.

    Raises:
        ValueError: there are no labels, or more than one an example.
    """
    labels = batch.row_labels
    if labels is None or labels.dim() != 1 or labels.is_floating_point():
        found = "none" if labels is None else f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise ValueError(f"{loss} needs one class number an example, [B], as labels; the batch has {found}.")
    return torch.where(batch.row_mask, labels, 0), batch.row_mask


def example_logits(signal: Signal, loss: str) -> Tensor:
    """The logits of a classifier, ``[B, C]`` in float32.

    Raises:
        ValueError: the model predicts something else.
    """
    logits = getattr(signal.rows, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise ValueError(f"{loss} is for classifiers with one prediction an example, [B, C]; use another student.")
    return as_float32(logits)
