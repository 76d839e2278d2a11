"""The registered row losses of the core and of its packages, made and set up, for `loss_engine.py` to measure."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, nn

from hf_distill import Plugins, RowLoss
from hf_distill.losses.engine import RowTerm

PACKAGES = ("lm", "classification")
OPTIONS = {"ferkd": {"lower": 0.2, "middle": 0.6}}  # what has no default


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
    """The loss with its options; set up, where it is a module."""
    function: Callable[..., Tensor] = registry().losses.create(name, OPTIONS.get(name, {}))
    if isinstance(function, RowLoss):
        torch.manual_seed(0)
        function.setup(nn.Module(), None, None)
    return function


def num_teachers(name: str) -> int:
    """How many teachers' logits the loss takes."""
    return sum(parameter.endswith("_logits") for parameter in _parameters(name)) - 1


def temperature(name: str) -> dict[str, float]:
    """What the engine gives to losses that ask for the temperature."""
    return {"temperature": 1.0} if "temperature" in _parameters(name) else {}


def _parameters(name: str) -> list[str]:
    function = row_loss(name)
    return list(inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters)


def row_columns(name: str, rows: int, vocab: int, device: str) -> dict[str, Tensor]:
    """Labels, and zeros and ones for whatever else the loss reads, ``[rows]``."""
    generator = torch.Generator().manual_seed(0)
    return {
        column: torch.randint(vocab if column == "labels" else 2, (rows,), generator=generator).to(device)
        for column in RowTerm(name, row_loss(name), 1.0).reads
    }
