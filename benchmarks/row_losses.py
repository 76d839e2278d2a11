"""The registered row losses of the core and of hf-distill-lm, made and set up, for `loss_engine.py` to measure."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_distill import Plugins, RowLoss
from hf_distill.losses.engine import RowTerm

PACKAGES = ("lm",)


@functools.cache
def registry() -> Plugins:
    """The core's losses and those of the packages that are installed."""
    installed = {plugin.name for plugin in Plugins().installed()}
    return Plugins([name for name in PACKAGES if name in installed])


def row_loss_names() -> list[str]:
    """What is registered as a plain function, or derives from `RowLoss`."""
    targets = {component.name: component.resolve() for component in registry().losses}
    return [name for name, target in targets.items() if not inspect.isclass(target) or issubclass(target, RowLoss)]


@functools.cache
def row_loss(name: str) -> Callable[..., Tensor]:
    """The loss with its default options; set up, where it is a module."""
    function: Callable[..., Tensor] = registry().losses.create(name)
    if isinstance(function, RowLoss):
        torch.manual_seed(0)
        function.setup(nn.Module(), None, None)
    return function


def num_teachers(name: str) -> int:
    """How many teachers' logits the loss takes."""
    function = row_loss(name)
    parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    return sum(parameter.endswith("_logits") for parameter in parameters) - 1


def row_columns(name: str, rows: int, vocab: int, device: str) -> dict[str, Tensor]:
    """Labels, and zeros and ones for whatever else the loss reads, ``[rows]``."""
    generator = torch.Generator().manual_seed(0)
    return {
        column: torch.randint(vocab if column == "labels" else 2, (rows,), generator=generator).to(device)
        for column in RowTerm(name, row_loss(name), 1.0).reads
    }
