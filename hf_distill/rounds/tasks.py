"""What a run in rounds trains: the part of it that knows models, told apart from the part that knows rounds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from .class_report import ClassReport
from .generators import Predictions, Row


class RoundStudent(Protocol):
    """A trained student in this process."""

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """What it says about rows with a ``text``."""

    def report(self, rows: Sequence[Row]) -> ClassReport:
        """How good it is on labelled rows."""


class RoundTask(ABC):
    """What is learned, and how.

    Students live in folders between rounds, and every training starts from one: the weights of a resumed run are
    those of an uninterrupted one, and no engine (DDP, ZeRO) of one training is alive in the next.

    Attributes:
        labels: the taxonomy, names in the order of their ids.
    """

    labels: tuple[str, ...]

    def settings(self) -> dict[str, Any]:
        """What decides the students, as JSON: a run whose settings changed is another run."""
        return {}

    @abstractmethod
    def create(self, folder: Path, rows: Sequence[Row]) -> None:
        """Save the untrained student; called on the first process. `rows` are those that the run begins with."""

    @abstractmethod
    def fit(self, start: Path, rows: Sequence[Row], folder: Path, *, seed: int, title: str, first: bool) -> None:
        """Train the student of `start` on `rows` with a fresh optimizer and schedule; collective.

        Args:
            start: the folder of the student to begin with.
            rows: what to train on.
            folder: where to save it; the first process makes it whole at once.
            seed: of the order of the data, and of dropout.
            title: for progress bars.
            first: whether the student has not been trained before.
        """

    @abstractmethod
    def open(self, folder: Path) -> RoundStudent:
        """Load a student for predictions, without wrappers; nothing about it is collective."""
