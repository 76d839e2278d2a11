"""Sums and counts that pile up on the device and are reduced over processes only when somebody reads them."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from .distributed import sum_over_processes


class Meter:
    """Totals of many quantities, without a device synchronisation until they are read."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}

    def add(self, name: str, value: Tensor, count: Tensor | int) -> None:
        """Add a sum that runs over `count` items."""
        value = value.detach().to(torch.float64)
        pair = torch.stack([value, torch.as_tensor(count, dtype=torch.float64, device=value.device)])
        previous = self._totals.get(name)
        self._totals[name] = pair if previous is None else previous + pair

    def add_all(self, sums: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Add sums and counts by name."""
        for name, (value, count) in sums.items():
            self.add(name, value, count)

    def merge(self, other: Meter) -> None:
        """Add everything that `other` holds."""
        self.add_all({name: (pair[0], pair[1]) for name, pair in other._totals.items()})

    def read(self, device: torch.device) -> dict[str, tuple[float, float]]:
        """Sum and count over all processes, by name; collective where a process group runs."""
        names = sorted(self._totals)
        if not names:
            return {}
        totals = sum_over_processes(torch.stack([self._totals[name].to(device) for name in names]))
        return {name: (pair[0], pair[1]) for name, pair in zip(names, totals.tolist(), strict=True)}

    def clear(self) -> None:
        """Forget everything."""
        self._totals.clear()


def means(totals: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Sum divided by count; what was never counted is left out."""
    return {name: value / count for name, (value, count) in totals.items() if count > 0}


def named_for_log(values: dict[str, float]) -> dict[str, float]:
    """Losses as ``<name>_loss``; what is observed about the teacher keeps its name."""
    return {name if name.startswith("teacher_") else f"{name}_loss": value for name, value in values.items()}


def peak_memory_mb() -> float:
    """The most memory that this process has held so far, in MiB: of the GPU where there is one, else of the machine."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    if sys.platform == "win32":
        return float("nan")
    import resource  # Unix only, so not for the whole module

    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
