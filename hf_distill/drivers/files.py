"""Files and folders that are whole whenever they are there, however a run ends."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What the file holds, or None where there is none."""
    return json.loads(path.read_text()) if path.is_file() else None


def write_json(path: Path, value: Any, *, indent: int | None = None) -> None:
    """Write a file of JSON, all at once."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is whole whenever it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder so that it is whole whenever it is there."""
    partial = path.with_name(f"{path.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    fill(partial)
    os.replace(partial, path)
