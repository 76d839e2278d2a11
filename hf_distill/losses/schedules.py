"""Weights that change over training: a number, or a way from one number to another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Schedule:
    """A weight over the optimizer steps of a run.

    Attributes:
        start, end: the weight at step 0 and from the end of the way on.
        steps: length of the way in optimizer steps; None where `fraction` says it.
        fraction: length of the way as a share of the run, above 0 and up to 1.
        shape: "linear" or "cosine" (slow at both ends).
    """

    start: float
    end: float
    steps: int | None = None
    fraction: float | None = None
    shape: str = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"A weight's {name} is {getattr(self, name)!r}; expected a finite number.")
        if self.steps is not None and self.fraction is not None:
            raise ValueError(
                f"A weight has both steps ({self.steps}) and fraction ({self.fraction}); give one of them."
            )
        if self.steps is not None and not (isinstance(self.steps, int) and self.steps > 0):
            raise ValueError(f"A weight's steps are {self.steps!r}; expected a positive whole number.")
        if self.fraction is not None and not (_is_number(self.fraction) and 0 < self.fraction <= 1):
            raise ValueError(
                f"A weight's fraction is {self.fraction!r}; expected a share of the run, above 0 and up to 1."
            )
        if self.shape not in ("linear", "cosine"):
            raise ValueError(f'A weight\'s shape is {self.shape!r}; expected "linear" or "cosine".')

    @classmethod
    def parse(cls, spec: Any) -> Schedule:
        """A schedule from a number, or from a mapping with start, end, one of steps and fraction (default 1), shape.

        Raises:
            ValueError: it is neither, or a value is out of range.
        """
        if isinstance(spec, Schedule):
            return spec
        if _is_number(spec):
            return cls(start=float(spec), end=float(spec))
        if not isinstance(spec, Mapping):
            raise ValueError(
                f"A weight is {spec!r}; expected a number, or {{'start': 1.0, 'end': 0.0, 'fraction': 0.5}}."
            )
        known = {"start", "end", "steps", "fraction", "shape"}
        if unknown := sorted(set(spec) - known):
            raise ValueError(f"Unknown keys {unknown} in the weight {dict(spec)}; expected some of {sorted(known)}.")
        if missing := sorted({"start", "end"} - set(spec)):
            raise ValueError(f"The weight {dict(spec)} lacks {' and '.join(missing)}.")
        return cls(**spec)

    def value(self, step: int, max_steps: int) -> float:
        """The weight at `step`, the number of optimizer steps finished, of a run of `max_steps`."""
        length = self.steps if self.steps is not None else (self.fraction or 1.0) * max_steps
        progress = min(step / length, 1.0) if length > 0 else 1.0
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return self.start + (self.end - self.start) * progress

    def __str__(self) -> str:
        if self.start == self.end:
            return f"{self.start:g}"
        return f"({self.start:g} to {self.end:g})"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
