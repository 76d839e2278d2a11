"""What a selector is: it says which examples come next, and changes its mind between optimizer steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Probe(Protocol):
    """Measures models on the probe set, one figure a domain. Collective: every process calls it, equally often."""

    @property
    def domains(self) -> Sequence[str]:
        """Names of the probe set's domains, in the order of everything below."""

    def cross_entropy(self, model: str) -> Mapping[str, float]:
        """Mean cross-entropy in nats per predicted token, by domain; `model` is "student" or "teacher"."""

    def bits_per_byte(self, model: str) -> Mapping[str, float]:
        """The same in bits per byte of text, comparable between models with different tokenizers."""


class Selector(ABC):
    """Draws the indices of the examples that are trained on.

    All processes hold the same selector, call it in the same order and must get the same answers: it owns a seeded
    generator and decides on statistics that were reduced over processes first.

    Attributes:
        columns: data set columns that it reads.
        interval: optimizer steps between two calls of `update`. What `draw` returns for an interval takes effect at
            its first step, however far the data loader reads ahead.
        needs_probe: whether `update` measures models on a probe set.
    """

    columns: tuple[str, ...] = ()
    interval: int
    needs_probe: bool = False

    @abstractmethod
    def setup(self, columns: Mapping[str, Sequence[Any]], *, num_examples: int, seed: int) -> None:
        """Look at the data set once: its size and the columns that were asked for."""

    @abstractmethod
    def draw(self, num_examples: int) -> list[int]:
        """The indices of the next `num_examples` training examples."""

    def start(self, probe: Probe | None) -> None:  # noqa: B027 - to be overridden where there is something to do
        """Called once before the first draw of a fresh run (not of a resumed one), on all processes."""

    def update(self, step: int, probe: Probe | None) -> None:  # noqa: B027
        """Called after optimizer step `step`, a multiple of `interval`, on all processes."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next draws, as JSON-serialisable values."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""

    def logs(self) -> dict[str, float]:
        """Figures for the training log, the current mixture for instance."""
        return {}


def read_columns(dataset: Any, names: Sequence[str], *, what: str) -> dict[str, Sequence[Any]]:
    """The columns `names` of `dataset`, which is one of `datasets` or yields mappings by index.

    Raises:
        ValueError: there is no such column; says what `what` (the training set, the probe set) has.
    """
    table = dataset.with_format(None) if hasattr(dataset, "with_format") else None
    there = list(dataset[0]) if table is None else table.column_names
    if missing := [name for name in names if name not in there]:
        raise ValueError(f"The {what} has no column {', '.join(map(repr, missing))}; it has {', '.join(there)}.")
    if table is not None:
        return {name: list(table[name]) for name in names}
    return {name: [dataset[index][name] for index in range(len(dataset))] for name in names}
