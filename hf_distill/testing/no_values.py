"""Running a loss on tensors that have shapes and no values, so that whatever waits for a value is an error.

Meta tensors raise on `.item()`, `.tolist()`, `.cpu()`, `.numpy()`, `if tensor:`, boolean masks as indices, `nonzero`,
`unique` and nearly all else that an accelerator would have to be waited for; not on writing to ``x[mask]``.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch


def without_values(value: Any) -> Any:
    """A tensor, or the tensors of a mapping, on the meta device; anything else as it is."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("meta").requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {name: without_values(one) for name, one in value.items()}
    return value


@contextmanager
def waiting_fails() -> Iterator[None]:
    """Turns errors of meta tensors into the line of the loss that needs a value.

    Raises:
        AssertionError: there is one.
    """
    enter, enabled = torch.autocast.__init__, torch.is_autocast_enabled

    def on_cpu(self: torch.autocast, device_type: str, *arguments: Any, **options: Any) -> None:
        enter(self, "cpu" if device_type == "meta" else device_type, *arguments, **options)

    def enabled_on_cpu(device_type: str | None = None) -> bool:
        return enabled("cpu" if device_type in (None, "meta") else device_type)

    try:
        # Losses say torch.autocast(tensor.device.type, enabled=False), and autocast knows no meta device.
        with (
            mock.patch.object(torch.autocast, "__init__", on_cpu),
            mock.patch.object(torch, "is_autocast_enabled", enabled_on_cpu),
        ):
            yield
    except (RuntimeError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(torch.__file__).parent not in Path(frame.filename).parents]
        raise AssertionError(
            f"`{own[-1].line}` ({Path(own[-1].filename).name}, line {own[-1].lineno}) needs the values of a tensor, or "
            f"a tensor that is neither argument, parameter nor buffer: {str(error).partition('. ')[0]}"
        ) from error
