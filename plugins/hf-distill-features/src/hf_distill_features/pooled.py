"""Base of losses that compare whole examples: one vector each, and what the vectors of a batch say of each other.

Shape letters: B examples, n of them that count, S positions, H width.
Examples that do not count are masked, not cut out: how many there are is only known to the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, FeatureLoss, Signal, as_float32

LAST = ((-1, -1),)
POOLINGS = ("mean", "first", "last", "flatten")


class PooledLoss(FeatureLoss):
    """Compares the examples of a micro-batch as one vector each, pair by pair of layers.

    The value of a micro-batch is the mean over pairs of layers of what `relation` gives, and counts once for each of
    its examples. A relation between examples is one between those of the same micro-batch on the same process:
    larger micro-batches see more relations, and a step that is cut into several does not give the gradient of one that
    is not. Nothing is gathered from other processes. Fewer than two examples give zero.

    Everything is computed in float32, under autocast too. Duplicates that fill up the last batch do not take part.

    Args:
        layers: pairs of blocks, by default the last ones; see `FeatureLoss`.
        taps: names of one feature of the student and one of the teacher instead, for instance
            ``["module:resnet.pooler", "hidden.-1"]``; outputs ``[B, H]``, ``[B, S, H]`` and ``[B, C, h, w]`` are
            understood.
        pooling: how the positions of an example become one vector: "mean", "first" (the class token of encoders),
            "last" (of causal models), "flatten" (all of them, padding as zeros). Padding never counts.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.

    Raises:
        ValueError: an option out of its range.
    """

    def __init__(
        self,
        *,
        layers: str | Sequence[Sequence[int]] = LAST,
        taps: Sequence[str] | None = None,
        pooling: str = "mean",
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, stack=stack)
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if taps is not None and (isinstance(taps, str) or len(taps) != 2):
            raise ValueError(f"taps is {taps!r}; expected two names, [the student's, the teacher's].")
        if taps is not None and not all(name.startswith("module:") or "hidden." in name for name in taps):
            raise ValueError(f'taps is {taps!r}; expected "hidden.<i>" or "module:<path>" for each model.')
        if taps is not None and layers != LAST:
            raise ValueError(f"taps says what is compared, and so does layers ({layers!r}); give one of them.")
        self.taps = taps
        self.pooling = pooling

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the features.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        if self.taps is None or teacher is None:
            super().setup(student, teacher, tokenizer)
        else:
            self.student_taps, self.teacher_taps = (self.taps[0],), (self.taps[1],)

    def tap_names(self, block: int) -> tuple[str, ...]:
        """The output of a block."""
        return (f"{self.prefix}hidden.{block + 1}",)

    def relation(self, pair: int, student: Tensor, teacher: Tensor, present: Tensor) -> Tensor:
        """The value of a micro-batch, a scalar.

        Args:
            pair: which pair of layers, from 0.
            student: its vectors, ``[B, H]`` in float32; zeros for an example that does not count.
            teacher: the same of the teacher, without gradient.
            present: which examples count, boolean ``[B]``; there may be none.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define relation(pair, student, teacher, present).")

    def count(self, batch: Batch) -> Tensor:
        """Examples."""
        return batch.count("examples")

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Mean over pairs of layers of `relation`, times the number of examples."""
        present = examples_present(batch)
        with torch.autocast(present.device.type, enabled=False):
            vectors = self.vectors(student, teacher, batch)
            values = [self.relation(pair, *both, present) for pair, both in enumerate(vectors)]
        return torch.stack(values).mean() * present.sum()

    def vectors(self, student: Signal, teacher: Signal, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """The examples as student and teacher see them, both ``[B, H]``, for each pair of layers."""
        mask, present = self.mask(batch), examples_present(batch)[:, None]
        return [
            (
                torch.where(present, pool(student.features[student_tap], mask, self.pooling), 0),
                torch.where(present, pool(teacher.features[teacher_tap].detach(), mask, self.pooling), 0),
            )
            for student_tap, teacher_tap in zip(self.student_taps, self.teacher_taps, strict=True)
        ]


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over the true entries of the mask, 0 where there are none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)


def pairs_of(present: Tensor) -> Tensor:
    """Which ordered pairs of examples there are, an example with itself included, boolean ``[B, B]``."""
    return present[:, None] & present[None, :]


def examples_present(batch: Batch) -> Tensor:
    """Which examples are not duplicates that only fill up the batch, boolean ``[B]``."""
    return batch.token_mask.reshape(batch.token_mask.shape[0], -1).any(dim=1)


def pool(features: Tensor, mask: Tensor, pooling: str = "mean") -> Tensor:
    """One vector for each example in float32, ``[B, H]``.

    Args:
        features: ``[B, S, H]``; ``[B, C, h, w]`` of a convolution, whose positions are its pixels; or ``[B, H]``.
        mask: boolean ``[B, S]``, or ``[B]`` where every position counts.
        pooling: one of `POOLINGS`.

    Raises:
        ValueError: the feature has another shape, or other positions than the mask.
    """
    if features.dim() not in (2, 3, 4):
        raise ValueError(
            f"A feature has the shape {tuple(features.shape)}; expected [B, H], [B, S, H] or [B, C, h, w]."
        )
    features = as_float32(features)
    if features.dim() == 2:
        return features
    if features.dim() == 4:
        features = features.flatten(2).transpose(1, 2)
    if mask.dim() == 1:
        mask = mask[:, None].expand(features.shape[:2])
    if mask.shape != features.shape[:2]:
        raise ValueError(
            f"A feature has {tuple(features.shape[:2])} examples and positions, the batch's mask {tuple(mask.shape)}; "
            "compare features that have the batch's own positions."
        )
    if pooling in ("first", "last"):
        places = torch.arange(mask.shape[1], device=mask.device)
        place = torch.where(mask, places if pooling == "last" else -places, -mask.shape[1]).argmax(1)
        return features.gather(1, place[:, None, None].expand(-1, 1, features.shape[2])).squeeze(1)
    features = torch.where(mask[:, :, None], features, 0)
    return features.flatten(1) if pooling == "flatten" else features.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
