"""What a row loss that is a plain function says about itself, and how the engine calls a row loss of either kind."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from ..batch.signals import SparseRows
from .papers import Paper

LABELS = "labels"
TEMPERATURE = "temperature"

Function = TypeVar("Function", bound=Callable[..., Tensor])


def row_loss(
    *,
    paper: Paper | None = None,
    accepts_one_column: bool = False,
    on_sparse: Callable[..., Tensor] | None = None,
) -> Callable[[Function], Function]:
    """A decorator of row losses that are plain functions; it says what `RowLoss` says by attributes.

    Args:
        paper: where the loss comes from.
        accepts_one_column: whether it compares the logits themselves, so that it teaches something where there is one
            output column, whose softmax is always 1 (regression).
        on_sparse: the same loss of ``(student_logits, teacher)``, the teacher a `SparseRows`, without writing the whole
            distribution out.
    """

    def declare(function: Function) -> Function:
        vars(function).update(paper=paper, accepts_one_column=accepts_one_column)
        if on_sparse is not None:
            vars(function).update(on_sparse=on_sparse)
        return function

    return declare


def accepts_one_column(loss: Callable[..., Tensor]) -> bool:
    """Whether a row loss teaches something where there is one output column; see `row_loss`."""
    return bool(getattr(_without_options(loss), "accepts_one_column", False))


@dataclass(frozen=True)
class RowCall:
    """What a row loss takes beside logits, read from its signature.

    Attributes:
        labels: whether it takes the rows' targets.
        temperature: whether it takes the temperature, and none is bound to it.
        columns: data columns that it takes by keyword.
        on_sparse: the loss on a single sparse teacher, where it has a way that does not write the whole distribution
            out.
    """

    labels: bool = False
    temperature: bool = False
    columns: tuple[str, ...] = ()
    on_sparse: Callable[..., Tensor] | None = None

    @classmethod
    def of(cls, loss: Callable[..., Tensor], *, num_teachers: int) -> RowCall:
        """Read the signature of `loss`; of a `RowLoss` after its `setup`, which may create parameters."""
        parameters = inspect.signature(loss.forward if isinstance(loss, nn.Module) else loss).parameters
        temperature = parameters.get(TEMPERATURE)
        return cls(
            labels=num_teachers == 0 or LABELS in parameters,
            temperature=temperature is not None and temperature.default is temperature.empty,
            columns=tuple(getattr(loss, "columns", ())),
            on_sparse=_on_sparse(loss) if num_teachers == 1 else None,
        )

    @property
    def reads(self) -> tuple[str, ...]:
        """What it takes by keyword of the rows' data."""
        return (*([LABELS] if self.labels else []), *self.columns)


def _on_sparse(loss: Callable[..., Tensor]) -> Callable[[Tensor, SparseRows], Tensor] | None:
    if isinstance(loss, nn.Module) and any(True for _ in loss.parameters()):
        return None
    form = getattr(_without_options(loss), "on_sparse", None)
    return functools.partial(form, **loss.keywords) if form and isinstance(loss, functools.partial) else form


def _without_options(loss: Any) -> Any:
    """The function that options were bound to."""
    while isinstance(loss, functools.partial):
        loss = loss.func
    return loss
