"""Log-probabilities that stay finite where a teacher excludes a class."""

from __future__ import annotations

from torch import Tensor

from hf_distill import as_float32

_LOWEST = -1e4  # log-probabilities below this count as this: what a teacher excludes with logits of -inf stays finite


def log_probabilities(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension, with a floor, in float32 (float64 for float64 logits)."""
    return as_float32(logits).log_softmax(-1).clamp(min=_LOWEST)
