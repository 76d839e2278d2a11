"""What a model says about a batch, in the forms that losses read: the ground that losses and teachers share.

Shape letters used all over the package: B examples, S positions, H hidden width, V vocabulary (or classes), n rows.
A *row* is one categorical prediction: a token of a sequence, or an example of a classification batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..models.heads import Head

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

    @property
    def shape(self) -> torch.Size:
        """How many rows there are, in which arrangement: ``[B, S]``, or ``[n]`` after `select`."""
        return self.tensor.shape[:-1]

    def select(self, mask: Tensor) -> Rows:
        """The rows where the boolean `mask` (shape of all dimensions but the last) is true, flattened to ``[n, .]``."""
        return Rows(
            states=None if self.states is None else self.states[mask],
            head=self.head,
            logits=None if self.logits is None else self.logits[mask],
            vocab_size=self.vocab_size,
        )


@dataclass
class SparseRows:
    """A teacher's predictions cut to k columns a row, with the mass of all the others: what a cache holds.

    What is not kept shares the tail's mass equally, unless there is none. Students are always normalised over the whole
    vocabulary, never over the columns that were kept.

    Attributes:
        ids: the columns kept, ``[..., k]`` int64, in any order, each once; `vocab_size` where a slot is not used.
        log_probs: their log-probabilities over the whole vocabulary, ``[..., k]``; -inf where a slot is not used.
        tail: logarithm of the mass of the columns that were not kept, ``[...]``; -inf for none.
        vocab_size: V, the columns there are.
        next_log_probs: log-probability of the token that comes next in the input, ``[...]``, where known.
        entropy: in nats, of the whole distribution, ``[...]``, where known.
    """

    ids: Tensor
    log_probs: Tensor
    tail: Tensor
    vocab_size: int
    next_log_probs: Tensor | None = None
    entropy: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        """How many rows there are, in which arrangement."""
        return self.tail.shape

    def __getitem__(self, index: Any) -> SparseRows:
        """Some of the rows."""
        known: dict[str, Any] = {k: v[index] for k, v in vars(self).items() if isinstance(v, Tensor)}
        return replace(self, **known)

    def select(self, mask: Tensor) -> SparseRows:
        """The rows where the boolean `mask` is true, as ``[n, k]``."""
        return self[mask]

    @property
    def spread(self) -> Tensor:
        """Log-probability of each single column that was not kept, ``[...]``."""
        num_others = (self.vocab_size - (self.ids < self.vocab_size).sum(-1)).to(self.tail.dtype)
        return torch.where(num_others > 0, self.tail - num_others.clamp(min=1).log(), -torch.inf)

    def conditioned(self, *, columns: int, temperature: float) -> SparseRows:
        """The distribution over the first `columns` alone, at a temperature; sums to one again."""
        kept = self.ids < columns
        log_probs = self.log_probs.masked_fill(~kept, -torch.inf) / temperature
        num_others = (columns - kept.sum(-1)).to(log_probs.dtype)
        tail = self.spread / temperature + num_others.log()
        total = torch.logaddexp(log_probs.logsumexp(-1), tail)
        return SparseRows(self.ids.where(kept, columns), log_probs - total[..., None], tail - total, columns)

    def log_probs_of(self, labels: Tensor) -> Tensor:
        """The log-probability of one column of each row, ``[...]``; of one that was not kept, its share of the tail."""
        found = self.ids == labels[..., None]
        return torch.where(found.any(-1), self.log_probs.masked_fill(~found, -torch.inf).amax(-1), self.spread)

    def logits(self) -> Tensor:
        """The whole distribution as log-probabilities, ``[..., V]``."""
        whole = self.spread[..., None].expand(*self.shape, self.vocab_size + 1).clone()
        return whole.scatter_(-1, self.ids, self.log_probs)[..., :-1]  # unused slots fall into the last column


@dataclass
class Signal:
    """What one model says about one batch.

    Attributes:
        rows: its predictions, aligned with the batch's positions (``[B, S, .]``, or ``[B, .]`` for classifiers); those
            of a teacher may be sparse.
        features: captured tensors by tap name (see `hf_distill.models.features`).
        outputs: the model's own output object, where the whole forward pass ran.
        parts: of a nested batch, what the model says about each part that a loss asked for, by name.
    """

    rows: Rows | SparseRows | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    outputs: Any = None
    parts: Mapping[str, Signal] = field(default_factory=dict)


@dataclass
class Batch:
    """A batch as losses see it: model inputs, what only distillation needs, and where the predictions are.

    A *nested* batch has parts, each of which is the input of a forward pass of its own: a query and its documents, two
    views, two prompts. A part has as many sequences as it likes, in the order of the examples, and a length of its own.
    The batch around it has one row an example, without positions: its masks are ``[B]``.

    Attributes:
        inputs: the student's inputs, without labels; of a nested batch, what is neither part, label nor extra.
        extras: columns that no model takes (domain, example id, cached teacher rows).
        labels: the labels as the collator made them, or None.
        row_labels: the target of the prediction made at each position, already shifted for causal models;
            `IGNORE_INDEX` where there is none. ``[B, S]`` (or ``[B]``); None without labels.
        row_mask: true where a prediction counts, ``[B, S]`` (or ``[B]``).
        token_mask: true where there is a token rather than padding, ``[B, S]`` (or ``[B]``).
        parts: of a nested batch, its parts by name. Which *examples* fill up the last batch, the masks around them say.
    """

    inputs: Mapping[str, Any]
    extras: Mapping[str, Any]
    labels: Tensor | None
    row_labels: Tensor | None
    row_mask: Tensor
    token_mask: Tensor
    parts: Mapping[str, Batch] = field(default_factory=dict)

    def take(self, rows: Sequence[int]) -> Batch:
        """The batch of some of its examples, in the order given.

        Raises:
            ValueError: it is nested, and which sequences of a part belong to an example is known to losses only.
        """
        if self.parts:
            raise ValueError(f"A nested batch ({', '.join(self.parts)}) cannot be cut; cut its parts.")
        size, index = len(self.row_mask), list(rows)

        def own(value: Any) -> Any:
            if isinstance(value, list):
                return [value[i] for i in index]
            return value[index] if isinstance(value, Tensor) and value.shape[:1] == (size,) else value

        inputs, extras = ({k: own(v) for k, v in part.items()} for part in (self.inputs, self.extras))
        return Batch(inputs, extras, *map(own, (self.labels, self.row_labels, self.row_mask, self.token_mask)))

    def by_row(self, name: str) -> Tensor:
        """The column `name` of `extras` for each row that counts, ``[n]``; an example's value for all of its rows.

        Raises:
            ValueError: there is no such column, or it does not hold one number an example or a position.
        """
        values = self.extras.get(name)
        shape = self.row_mask.shape
        if not isinstance(values, Tensor) or values.shape not in (shape, shape[:1]):
            found = f"{type(values).__name__} of shape {tuple(getattr(values, 'shape', ()))}"
            raise ValueError(
                f"A loss reads the column {name!r}, which is {found}; expected one number an example, "
                f"{tuple(shape[:1])}, or a position, {tuple(shape)}."
            )
        values = values.to(self.row_mask.device)
        return values.reshape(*values.shape, *[1] * (len(shape) - values.dim())).expand(shape)[self.row_mask]

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
class StepInfo:
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
