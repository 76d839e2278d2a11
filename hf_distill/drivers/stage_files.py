"""What a run in stages keeps on disk: enough to go on from any moment at which it may be killed.

    stages/00-general/stage.json     what the stage was asked to do; written as it begins
    stages/00-general/start/         the student as it begins, where that is not the end of an earlier stage
    stages/00-general/trainer/       checkpoints; gone once the stage has ended
    stages/00-general/model/         the finished student, what its losses own, and record.json
    model/                           the student of the last stage

Each file and folder appears under its name only when it is complete: a stage has ended when its model is there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .files import read_json, write_folder, write_json

RECORD = "record.json"


@dataclass(frozen=True)
class StageRecord:
    """A finished stage.

    Attributes:
        name: the stage.
        steps: optimizer steps taken.
        stopped: why it ended.
        metrics: of the evaluation at its end, without times.
        carried_over: labels of the losses that went on with what they had learned in the stage before.
        num_trainable: parameters trained, those of the losses included.
    """

    name: str
    steps: int
    stopped: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    carried_over: list[str] = field(default_factory=list)
    num_trainable: int = 0


class StageFiles:
    """The folder of a run; only the first process writes.

    Args:
        folder: made where it is absent.
        names: of all stages, in order.
    """

    def __init__(self, folder: str | Path, names: list[str]) -> None:
        self.folder = Path(folder)
        self.final_model = self.folder / "model"
        self._stages = {name: self.folder / "stages" / f"{index:02d}-{name}" for index, name in enumerate(names)}

    def stage(self, name: str) -> Path:
        """The folder of a stage."""
        return self._stages[name]

    def model(self, name: str) -> Path:
        """Where the finished student of a stage is."""
        return self._stages[name] / "model"

    def start(self, name: str) -> Path:
        """Where the student is as a stage begins, if it is made there."""
        return self._stages[name] / "start"

    def trainer(self, name: str) -> Path:
        """Where the checkpoints of a stage are."""
        return self._stages[name] / "trainer"

    def read_record(self, name: str) -> dict[str, Any]:
        """The record of a stage that has ended."""
        found: dict[str, Any] = read_json(self.model(name) / RECORD)
        return found

    def begin(self, name: str, described: Mapping[str, Any]) -> None:
        """Keep what a stage is asked to do.

        Raises:
            ValueError: it has begun and was asked for something else; names what.
        """
        path = self.stage(name) / "stage.json"
        there = read_json(path)
        if there is None:
            write_json(path, described, indent=1)
        elif there != described:
            odd = sorted(key for key in {*there, *described} if there.get(key) != described.get(key))
            raise ValueError(
                f"The stage {name!r} in {self.folder} has begun with other values of {', '.join(odd)}. Give this run "
                f"another output_dir, or remove {self.stage(name)} and the stages after it."
            )

    def finish(self, partial: Path, record: StageRecord) -> None:
        """Make the filled folder `partial` the student of its stage, and drop the checkpoints."""
        (partial / "training_args.bin").unlink(missing_ok=True)  # pickled, and of this training alone
        write_json(partial / RECORD, asdict(record), indent=1)
        os.replace(partial, self.model(record.name))
        shutil.rmtree(self.trainer(record.name), ignore_errors=True)

    def publish(self, name: str) -> None:
        """Make the student of a stage the one of the run."""
        if self.final_model.exists():
            shutil.rmtree(self.final_model)

        def copy(folder: Path) -> None:
            shutil.copytree(self.model(name), folder, dirs_exist_ok=True)

        write_folder(self.final_model, copy)
