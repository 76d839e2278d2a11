"""What a run in rounds keeps on disk: enough to go on from any moment at which it may be killed.

    rounds.json              records of the finished rounds; the last thing written of each
    ledger.jsonl             what was asked and answered
    initial/                 the student before any training
    rounds/03/predictions.json   what the generator was shown: the prompts of a resumed round are the same to the letter
    rounds/03/rows.jsonl     every proposed row and what became of it
    rounds/03/model/         the student after the round; those of the best and the last round are kept
    model/                   the best student, once the run has stopped

Each file and folder appears under its name only when it is complete.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..drivers.files import read_json, write_folder, write_json, write_text
from .class_report import ClassReport


@dataclass(frozen=True)
class RoundRecord:
    """A finished round. Round 0 is the training on the rows that the run began with.

    Attributes:
        index: the round.
        num_rows: rows that were trained on, all rounds so far together.
        num_proposed: rows that the generator proposed.
        num_accepted: those of them that passed the checks.
        rejected: how many did not, by reason.
        report: on the validation rows.
        num_requests: attempts at requests made for this round.
        num_tokens: tokens read and written for it, as far as they are known.
        cost: what it cost; None where that is not known.
        problems: why answers gave no rows, one for each of them.
    """

    index: int
    num_rows: int
    report: ClassReport
    num_proposed: int = 0
    num_accepted: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    num_requests: int = 0
    num_tokens: int = 0
    cost: float | None = None
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RoundRecord:
        """What `to_json` wrote."""
        return cls(**{**value, "report": ClassReport.from_json(value["report"])})


def best_of(records: Iterable[RoundRecord]) -> RoundRecord:
    """The round with the lowest validation loss; of equal ones the first."""
    return min(records, key=lambda record: record.report.loss)


class RoundFiles:
    """The folder of a run; only the first process writes.

    Args:
        folder: made where it is absent.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.initial = self.folder / "initial"
        self.best_model = self.folder / "model"

    def round(self, index: int) -> Path:
        """The folder of one round."""
        return self.folder / "rounds" / f"{index:02d}"

    def model(self, index: int) -> Path:
        """Where the student of a round is."""
        return self.round(index) / "model"

    def read_records(self, fingerprint: str) -> list[RoundRecord]:
        """The finished rounds of a run on the data with this fingerprint.

        Raises:
            ValueError: the folder holds a run on other data.
        """
        state = read_json(self.folder / "rounds.json")
        if state is None:
            return []
        if state["fingerprint"] != fingerprint:
            raise ValueError(
                f"{self.folder} holds a run in rounds with other rows, labels, student, training or seed. Give this "
                "one another output_dir, or remove that folder."
            )
        return [RoundRecord.from_json(value) for value in state["records"]]

    def write_records(self, fingerprint: str, records: Iterable[RoundRecord], *, stopped: str | None = None) -> None:
        """Keep the finished rounds, and why there will be no more of them."""
        values = [record.to_json() for record in records]
        write_json(
            self.folder / "rounds.json", {"fingerprint": fingerprint, "stopped": stopped, "records": values}, indent=1
        )

    def read_rows(self, index: int) -> list[dict[str, Any]] | None:
        """The proposed rows of a round with what became of them; None where they are not all known yet."""
        path = self.round(index) / "rows.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else None

    def write_rows(self, index: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Keep the proposed rows of a round, all at once."""
        write_text(self.round(index) / "rows.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def keep_models(self, indices: Iterable[int]) -> None:
        """Remove the students of all other rounds."""
        kept = {self.model(index) for index in indices}
        for path in (self.folder / "rounds").glob("*/model"):
            if path not in kept:
                shutil.rmtree(path)

    def publish(self, index: int) -> None:
        """Make the student of a round the one of the run."""

        def copy(folder: Path) -> None:
            shutil.copytree(self.model(index), folder, dirs_exist_ok=True)

        if self.best_model.exists():
            shutil.rmtree(self.best_model)
        write_folder(self.best_model, copy)
