"""What a training adds to the log: each loss by itself, what was observed of the teacher, speed and memory."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from .meter import Meter, means, named_for_log


class TrainingLog:
    """Collects what micro-batches give, by optimizer step and since the last line of the log."""

    def __init__(self) -> None:
        self._step, self._since_last = Meter(), Meter()
        self._time = time.monotonic()

    def start(self) -> None:
        """Begin to measure time."""
        self._time = time.monotonic()

    def add(self, sums: Mapping[str, tuple[Tensor, Tensor]], *, num_tokens: Tensor) -> None:
        """Add a micro-batch: each loss's sum and count, and how many tokens the student read."""
        self._step.add_all(sums)
        self._step.add("tokens", num_tokens, 1)

    def step_means(self, device: torch.device) -> dict[str, float]:
        """The losses' means over the optimizer step so far; collective where a process group runs."""
        return means(self._step.read(device))

    def end_step(self) -> None:
        """The optimizer step is done."""
        self._since_last.merge(self._step)
        self._step.clear()

    def read(self, device: torch.device) -> tuple[dict[str, float], float]:
        """Means since the last call, by their names in the log, and tokens a second; collective as `step_means`."""
        totals = self._since_last.read(device)
        self._since_last.clear()
        now, before = time.monotonic(), self._time
        self._time = now
        tokens, _ = totals.pop("tokens", (0.0, 1.0))
        return named_for_log(means(totals)), tokens / max(now - before, 1e-9)
