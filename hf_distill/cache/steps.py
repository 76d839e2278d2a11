"""Nats as whole steps of 1/16, rounded to the nearest, so that an error is at most `BOUND`; exact in float32."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bits import Integers
from .rows import BOUND, FLOOR

STEPS = round(1 / (2 * BOUND))  # a nat
INFINITE, UNKNOWN = -1, -2  # -inf and NaN


def to_steps(values: NDArray[np.float32], name: str, *, unknown: bool = True) -> Integers:
    """Steps below zero; `INFINITE` below `FLOOR`, and `UNKNOWN` for NaN.

    Raises:
        ValueError: a value above zero (by more than rounding), or a NaN where `unknown` is false.
    """
    missing = np.isnan(values)
    wrong = values > BOUND if unknown else (values > BOUND) | missing
    if wrong.any():
        raise ValueError(f"{name} holds {values[wrong][0]:.4g}; expected numbers up to 0, in nats.")
    steps: NDArray[np.float32] = np.rint(np.maximum(values, FLOOR) * -STEPS)
    steps[values < FLOOR] = INFINITE
    steps[missing] = UNKNOWN
    return np.asarray(steps, dtype=np.int64)


def to_nats(steps: Integers) -> NDArray[np.float32]:
    """The inverse of `to_steps`, up to rounding."""
    values: NDArray[np.float32] = steps.astype(np.float32) * np.float32(-1 / STEPS)
    values[steps == INFINITE] = -np.inf
    values[steps == UNKNOWN] = np.nan
    return values
