"""Which checkpoint to resume from: the newest that was written to its end."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)


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


def warn_of_other_versions(saved: Mapping[str, str], present: Mapping[str, str]) -> None:
    """Say which plugins differ from those that a checkpoint was made with."""
    for name in sorted({*saved, *present}):
        if saved.get(name) != present.get(name):
            logger.warning(
                f"The checkpoint was made with plugin {name} {saved.get(name, '(not active)')}; "
                f"this run has {present.get(name, '(not active)')}."
            )
