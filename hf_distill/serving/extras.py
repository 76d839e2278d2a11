"""Libraries that few need, installed as extras of hf-distill."""

from __future__ import annotations

import importlib
from typing import Any


def import_extra(module: str, extra: str) -> Any:
    """The library `module`.

    Raises:
        ValueError: it is not installed; says which extra has it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"This needs {error.name}: pip install 'hf-distill[{extra}]'.") from error
