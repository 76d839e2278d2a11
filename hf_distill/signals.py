"""What a model says about a batch, in the forms that losses read: the ground that losses and teachers share.

Shape letters used all over the package: B examples, S positions, H hidden width, V vocabulary (or classes), n rows.
A *row* is one categorical prediction: a token of a sequence, or an example of a classification batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .heads import Head

IGNORE_INDEX = -100


@dataclass
class Rows:
    """The predictions of a model for some rows: hidden states and the head that has not run yet, or finished logits.

    Attributes:
        states: hidden states before the head, ``[..., H]``; None where `logits` is given.
        head: projects `states` to logits; None where `logits` is given.
        logits: finished logits, ``[..., V]``, of models that have no separate head (classifiers).
        vocab_size: how many leading columns of the logits count; padded columns of a head beyond it are dropped.
    """

    states: Tensor | None = None
    head: Head | None = None
    logits: Tensor | None = None
    vocab_size: int | None = None

    def __post_init__(self) -> None:
        if (self.states is None) == (self.logits is None) or (self.states is None) != (self.head is None):
            raise ValueError("Rows takes either states and head, or logits.")

    @property
    def tensor(self) -> Tensor:
        """The states or the logits, whichever this holds."""
        return self.logits if self.states is None else self.states  # type: ignore[return-value]

    def select(self, mask: Tensor) -> Rows:
        """The rows where the boolean `mask` (shape of all dimensions but the last) is true, flattened to ``[n, .]``."""
        return Rows(
            states=None if self.states is None else self.states[mask],
            head=self.head,
            logits=None if self.logits is None else self.logits[mask],
            vocab_size=self.vocab_size,
        )


@dataclass
class Signal:
    """What one model says about one batch.

    Attributes:
        rows: its predictions, aligned with the batch's positions (``[B, S, .]``, or ``[B, .]`` for classifiers).
        features: captured tensors by tap name (see `hf_distill.taps`).
        outputs: the model's own output object, where the whole forward pass ran.
    """

    rows: Rows | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Any = None


@dataclass
class Batch:
    """A batch as losses see it: model inputs, what only distillation needs, and where the predictions are.

    Attributes:
        inputs: the student's inputs, without labels.
        extras: columns that no model takes (domain, example id, cached teacher rows).
        labels: the labels as the collator made them, or None.
        row_labels: the target of the prediction made at each position, already shifted for causal models;
            `IGNORE_INDEX` where there is none. ``[B, S]`` (or ``[B]``); None without labels.
        row_mask: true where a prediction counts, ``[B, S]`` (or ``[B]``).
        token_mask: true where there is a token rather than padding, ``[B, S]`` (or ``[B]``).
    """

    inputs: Mapping[str, Any]
    extras: Mapping[str, Any]
    labels: Tensor | None
    row_labels: Tensor | None
    row_mask: Tensor
    token_mask: Tensor

    def count(self, items: str) -> Tensor:
        """How many `items` ("rows", "tokens" or "examples") the batch holds, as an int64 scalar on its device."""
        if items == "rows":
            return self.row_mask.sum()
        if items == "tokens":
            return self.token_mask.sum()
        if items == "examples":
            # An example that was masked out as a whole (a duplicate that fills up the last batch) does not count.
            flat = self.token_mask.reshape(self.token_mask.shape[0], -1)
            return flat.any(dim=1).sum()
        raise ValueError(f'items is {items!r}; expected "rows", "tokens" or "examples".')


@dataclass(frozen=True)
class Clock:
    """Where training stands, given once per optimizer step to what keeps time.

    Attributes:
        step: optimizer steps finished.
        max_steps: optimizer steps of the whole run.
        losses: the mean of each loss over the step just finished, by name, over all micro-batches and processes.
    """

    step: int
    max_steps: int
    losses: Mapping[str, float]


def shift_labels(labels: Tensor) -> Tensor:
    """Labels moved one to the left, so that position i holds the target of the prediction made at i."""
    return torch.nn.functional.pad(labels, (0, 1), value=IGNORE_INDEX)[..., 1:]
