"""Merging models that were finetuned from one base: task arithmetic, TIES and DARE, on one tensor at a time.

With theta_k the k-th model, delta_k = theta_k - base is its task vector. All functions take and give float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

METHODS = ("task_arithmetic", "average", "ties")
_HALF = 1 << 16


def dare(delta: Tensor, drop_rate: float, *, rescale: bool = True, generator: torch.Generator) -> Tensor:
    """Drop entries of a task vector at random and rescale the rest, so that its expectation stays what it was.

    ``m ~ Bernoulli(p), (1 - m) delta / (1 - p)``. Paper: Yu et al. 2023, "Language Models are Super Mario",
    arXiv:2311.03099. The deltas of supervised finetuning (about 0.005) bear rates of 0.9 to 0.99; where
    deltas are ten times as large, as after continued pre-training, it fails.

    Args:
        delta: any shape.
        drop_rate: p, the share that goes; below 1.
        rescale: without it, DropOnly, the paper's control.
        generator: decides what goes.
    """
    kept = torch.rand(delta.shape, generator=generator) >= drop_rate
    return delta * kept / (1 - drop_rate if rescale else 1.0)


def ties(deltas: Tensor, thresholds: Tensor) -> Tensor:
    """Trim, elect a sign, and average what agrees with it; ``[K, ...]`` gives ``[...]``.

    Entries below the model's threshold are zero; the sign of an entry is that of the sum over models; the mean runs
    over the models whose entry has that sign. Paper: Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708, algorithm 1.
    Where the models cancel out exactly no sign is elected and the base stays; the authors' code takes the sign that
    most entries of the whole model have.

    Args:
        deltas: task vectors of K models, weighted.
        thresholds: the least magnitude that stays, for each model, ``[K]``; see `magnitude_thresholds`.
    """
    trimmed = deltas * (deltas.abs() >= thresholds.reshape(-1, *[1] * (deltas.dim() - 1)))
    elected = trimmed.sum(0).sign()
    agreeing = (trimmed.sign() == elected) & (elected != 0)
    return (trimmed * agreeing).sum(0) / agreeing.sum(0).clamp(min=1)


def magnitude_threshold(chunks: Callable[[], Iterable[Tensor]], density: float) -> float:
    """The magnitude of the entry that is the last of the `density` largest of many tensors, exactly.

    The bits of a float32 that is not negative are in the order of the numbers, so that two histograms of 16 bits each
    find the entry: memory does not grow with the number of tensors, which are gone through twice.

    Args:
        chunks: goes through the tensors; float32.
        density: share of entries to keep; at least one entry stays.

    Returns:
        The threshold t; entries with magnitude >= t are kept, equals of the last one as well.
    """
    high = torch.zeros(_HALF, dtype=torch.int64)
    for bits in _bits(chunks()):
        high += torch.bincount(bits >> 16, minlength=_HALF)
    wanted = max(round(density * int(high.sum())), 1)
    upper, above = _from_above(high, wanted)
    low = torch.zeros(_HALF, dtype=torch.int64)
    for bits in _bits(chunks()):
        low += torch.bincount(bits[bits >> 16 == upper] & (_HALF - 1), minlength=_HALF)
    lower, _ = _from_above(low, wanted - above)
    return float(torch.tensor((upper << 16) | lower, dtype=torch.int32).view(torch.float32))


def combine(
    base: Tensor, deltas: Sequence[Tensor], *, method: str, scale: float, thresholds: Tensor | None = None
) -> Tensor:
    """The merged tensor.

    Args:
        base: of the base model.
        deltas: task vectors, weighted, of the base's shape.
        method: "task_arithmetic": ``base + scale * sum`` (Ilharco et al. 2023, arXiv:2212.04089); "average": ``base +
            scale * mean``; "ties".
        scale: lambda.
        thresholds: of `ties`.
    """
    stacked = torch.stack(list(deltas))
    if method == "ties":
        assert thresholds is not None, "TIES needs thresholds"
        return base + scale * ties(stacked, thresholds)
    return base + scale * (stacked.mean(0) if method == "average" else stacked.sum(0))


def generator_for(seed: int, model: int, name: str) -> torch.Generator:
    """Random numbers for one tensor of one model, whatever the order in which tensors are gone through."""
    digest = hashlib.sha256(f"{seed}/{model}/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _bits(tensors: Iterable[Tensor]) -> Iterator[Tensor]:
    """The bits of magnitudes as whole numbers, a million at a time."""
    for tensor in tensors:
        for part in tensor.flatten().split(1 << 20):
            yield part.abs().view(torch.int32)


def _from_above(histogram: Tensor, wanted: int) -> tuple[int, int]:
    """The bin in which the `wanted`-th largest entry lies, and how many entries are in bins above it."""
    above = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(above, wanted))
    return len(histogram) - 1 - place, int(above[place - 1]) if place else 0
