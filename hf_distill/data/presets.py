"""Functions that configurations name, ``{preset: "package.module:function", ...options}``: how plugins bring more."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ..plugins.registry import did_you_mean

PRESET = "preset"


def call_preset(spec: Mapping[str, Any], *arguments: Any) -> Any:
    """What the function gives for its options.

    Args:
        spec: has the function in ``preset``, and its options beside that.
        arguments: what the function takes by position, before its options.

    Raises:
        ValueError: it cannot be found, lacks an option, or has no such option.
    """
    options = {key: value for key, value in spec.items() if key != PRESET}
    named = spec[PRESET]
    module, _, name = str(named).partition(":")
    try:
        preset = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"There is no preset {named!r} ({error}); expected 'module:function'.") from error
    parameters = dict(list(inspect.signature(preset).parameters.items())[len(arguments) :])
    for key in options:
        if key not in parameters:
            hint = did_you_mean(key, parameters)
            raise ValueError(f"The preset {name} has no option {key!r}{hint}; there are {', '.join(parameters)}.")
    missing = [key for key, one in parameters.items() if one.default is one.empty and key not in options]
    if missing:
        raise ValueError(f"The preset {name} needs the option {', '.join(missing)}.")
    return preset(*arguments, **options)
