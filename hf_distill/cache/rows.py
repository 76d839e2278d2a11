"""What a teacher said at each position, as NumPy arrays: the form that goes into the cache and comes out of it.

Shape letters: E examples, n positions of one or many examples behind each other, k slots of a position, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

BOUND = 1 / 32
"""Most nats by which any stored number may differ from the one that was given (see `FLOOR` for the exception)."""
FLOOR = -65536.0
"""Log-probabilities below it count as -inf: it is where masks live (-1e9, the least float32), and exp of it is zero."""


@dataclass
class TokenRows:
    """The kept part of n categorical distributions.

    Sampled tails (RS-KD, arXiv:2503.16870) have the same layout: each id drawn once, with the logarithm of its share of
    the draws as its log-probability and -inf as the tail.

    Attributes:
        ids: the kept ids, int64 ``[n, k]``; in unused slots the size of the vocabulary. A position's ids differ.
        log_probs: their log-probabilities, normalised over the whole vocabulary, float32 ``[n, k]``; -inf in unused
            slots, and where the teacher excludes a word.
        tail: logarithm of the probability of all that is not kept, float32 ``[n]``; -inf where nothing is left.
        target: log-probability of the token that follows, float32 ``[n]``; NaN where none does.
        entropy: in nats, float32 ``[n]``; NaN where it is not known.
    """

    ids: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    tail: NDArray[np.float32]
    target: NDArray[np.float32]
    entropy: NDArray[np.float32]

    def __post_init__(self) -> None:
        self.ids = np.asarray(self.ids, dtype=np.int64)
        for name in ("log_probs", "tail", "target", "entropy"):
            setattr(self, name, np.asarray(getattr(self, name), dtype=np.float32))
        n = len(self.ids)
        shapes = {field.name: getattr(self, field.name).shape for field in fields(self)}
        expected = {"ids": self.ids.shape[:2], "log_probs": self.ids.shape, "tail": (n,), "target": (n,)}
        expected["entropy"] = (n,)
        if self.ids.ndim != 2 or shapes != expected:
            raise ValueError(f"TokenRows got arrays of shapes {shapes}; expected [n, k], [n, k], [n], [n] and [n].")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, selection: slice | NDArray[np.bool_] | NDArray[np.int64]) -> TokenRows:
        """Some of the positions."""
        return TokenRows(*(getattr(self, field.name)[selection] for field in fields(self)))


def concatenate(parts: list[TokenRows], vocab_size: int) -> TokenRows:
    """The positions of several `TokenRows` behind each other; narrower ones get unused slots."""
    k = max((part.ids.shape[1] for part in parts), default=0)
    n = sum(map(len, parts))
    ids = np.full((n, k), vocab_size, dtype=np.int64)
    log_probs = np.full((n, k), -np.inf, dtype=np.float32)
    start = 0
    for part in parts:
        ids[start : start + len(part), : part.ids.shape[1]] = part.ids
        log_probs[start : start + len(part), : part.ids.shape[1]] = part.log_probs
        start += len(part)
    rest = (
        np.concatenate([getattr(part, name) for part in parts] or [np.zeros(0, dtype=np.float32)])
        for name in ("tail", "target", "entropy")
    )
    return TokenRows(ids, log_probs, *rest)
