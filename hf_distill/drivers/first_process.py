"""What one process does for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from accelerate import PartialState
from accelerate.utils import broadcast_object_list

T = TypeVar("T")


def is_first_process() -> bool:
    """Whether this is the process that asks and writes."""
    return bool(PartialState().is_main_process)


def on_first_process(function: Callable[[], T]) -> T:
    """Call `function` on the first process and give its result, which JSON could hold, to all; collective.

    Raises:
        Exception: what it raised there; on the other processes a RuntimeError that says so.
    """
    outcome: list[Any] = [None, None]
    failure: Exception | None = None
    if is_first_process():
        try:
            outcome[0] = function()
        except Exception as error:
            # The others wait for a result; they must hear of this before it ends the process.
            failure, outcome[1] = error, f"{type(error).__name__}: {error}"
    if PartialState().num_processes > 1:
        broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        raise RuntimeError(f"The first process failed with {outcome[1]}")
    result: T = outcome[0]
    return result
