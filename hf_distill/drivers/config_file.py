"""The YAML file that a command is given: how it is read, and how it is kept without its secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "run.json"
HIDDEN = "(hidden)"
_SECRET = re.compile(r"(^|_|-)(token|api_key|secret|password)$", re.IGNORECASE)


def read_config(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ValueError: it is not YAML, or not a mapping.
        OSError: it cannot be read.
    """
    import yaml

    try:
        config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"There is no file {path}.") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds {type(config).__name__}; expected a mapping such as `output_dir: out`.")
    return config


def without_secrets(value: Any) -> Any:
    """A copy of a configuration or command line in which every token, key, secret and password is hidden."""
    if isinstance(value, Mapping):
        return {k: HIDDEN if _SECRET.search(str(k)) and v is not None else without_secrets(v) for k, v in value.items()}
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        return json.dumps(without_secrets(json.loads(value)))  # a nested option
    if isinstance(value, str):
        name, equals, _ = value.partition("=")
        return f"{name}={HIDDEN}" if equals and name.startswith("--") and _SECRET.search(name) else value
    if isinstance(value, (list, tuple)):
        before = [None, *value]
        return [
            HIDDEN if isinstance(name, str) and name.startswith("--") and _SECRET.search(name) else without_secrets(one)
            for name, one in zip(before, value, strict=False)
        ]
    return value
