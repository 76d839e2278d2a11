"""Checkpoints: which one to resume from, and what distillation keeps in each beside the trainer's own files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)

STATE_FILE = "distillation_state.json"


def last_complete_checkpoint(output_dir: str | Path) -> str | None:
    """The newest checkpoint under `output_dir` whose trainer state, the last file written, can be read.

    A run killed while it saves leaves a folder that looks like a checkpoint; resuming from it would fail or, worse,
    start with parts missing.
    """
    found = [
        (int(match[1]), path) for path in Path(output_dir).glob("checkpoint-*") if (match := _STEP.match(path.name))
    ]
    for _, path in sorted(found, reverse=True):
        try:
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, json.JSONDecodeError):
            logger.warning(f"{path} was not written to its end; looking for an older checkpoint.")
            continue
        return str(path)
    return None


_STEP = re.compile(r"checkpoint-(\d+)$")


def write_state(folder: str | Path, state: Mapping[str, Any]) -> None:
    """Keep what a resumed run needs: the versions of plugins, and the state of a selector, if there is one."""
    (Path(folder) / STATE_FILE).write_text(json.dumps(state))


def read_state(folder: str | Path) -> dict[str, Any]:
    """What `write_state` kept.

    Raises:
        ValueError: the folder is no checkpoint of a distillation.
    """
    path = Path(folder) / STATE_FILE
    if not path.is_file():
        raise ValueError(f"{folder} is not a checkpoint of a distillation: no {STATE_FILE}.")
    state: dict[str, Any] = json.loads(path.read_text())
    return state


def warn_of_other_versions(saved: Mapping[str, str], present: Mapping[str, str]) -> None:
    """Say which plugins differ from those that a checkpoint was made with."""
    for name in sorted({*saved, *present}):
        if saved.get(name) != present.get(name):
            logger.warning(
                f"The checkpoint was made with plugin {name} {saved.get(name, '(not active)')}; "
                f"this run has {present.get(name, '(not active)')}."
            )
