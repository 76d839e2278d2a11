"""Heads on chunks of rows: logits forward, and gradients of logits folded into those of states and parameters at once.

Shape letters: m rows of a chunk, H hidden width, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..models.heads import Head

_TILE_BYTES = 16 * 2**20
_TILE_COLUMNS = 2**14


def product_type(head: Head) -> torch.dtype:
    """What a head's products are computed in: its own type, or autocast's, as in the model's own forward pass."""
    weight = head.module.weight
    assert isinstance(weight, Tensor)
    if head.weight is not None and weight.dtype == torch.float32 and torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


def accumulator(parameter: Tensor) -> Tensor:
    """Zeros for the gradient of `parameter`, in float32 or wider: chunks add up many small contributions."""
    return torch.zeros_like(parameter, dtype=torch.promote_types(parameter.dtype, torch.float32), requires_grad=False)


class Projection(ABC):
    """One head in one pass over all rows; lives while the head's parameters are gathered.

    Attributes:
        gradients: what was folded so far, by id of the parameter.
    """

    gradients: dict[int, Tensor]

    @abstractmethod
    def forward(self, rows: Tensor) -> Tensor:
        """The projection without the head's tail, ``[m, H]`` to ``[m, V]``; may be overwritten, by the next one too."""

    @abstractmethod
    def fold(self, gradient: Tensor, *, rows: Tensor | None) -> None:
        """Take in the gradient of the last logits, and write that of the rows that gave them to `rows`, if given."""


def make_projection(
    head: Head,
    *,
    columns: int,
    chunk: int,
    differentiate: bool = False,
    parameters: Sequence[nn.Parameter] = (),
) -> Projection:
    """The projection of `head`.

    Args:
        head: with its parameters gathered.
        columns: leading columns that are read; others need not be computed.
        chunk: the most rows at a time.
        differentiate: whether `fold` will be called.
        parameters: what to take gradients of; some may belong to others.
    """
    ids = {id(parameter) for parameter in head.module.parameters()}
    parameters = [parameter for parameter in parameters if id(parameter) in ids]
    if head.weight is None:
        return _AnyProjection(head, differentiate, parameters)
    return _LinearProjection(head, head.vocab_size if head.tail else columns, chunk, parameters)


class _LinearProjection(Projection):
    """A linear head, by matrix products into one buffer."""

    def __init__(self, head: Head, columns: int, chunk: int, parameters: Sequence[nn.Parameter]) -> None:
        assert head.weight is not None
        dtype = product_type(head)
        self.weight = head.weight.detach()[:columns].to(dtype)
        self.bias = None if head.bias is None else head.bias.detach()[:columns].to(dtype)
        self.buffer = self.weight.new_empty(chunk, columns)
        self.gradients = {id(parameter): accumulator(parameter) for parameter in parameters}
        self.weight_gradient = self.gradients.get(id(head.weight))
        self.bias_gradient = self.gradients.get(id(head.bias))

    def forward(self, rows: Tensor) -> Tensor:
        self.rows = rows.to(self.weight.dtype)
        logits = self.buffer[: len(rows)]
        # Tile by tile: where the states are wide, MKL would make a copy as big as the whole result.
        for start in range(0, logits.shape[1], _TILE_COLUMNS):
            tile = slice(start, start + _TILE_COLUMNS)
            if self.bias is None:
                torch.mm(self.rows, self.weight[tile].T, out=logits[:, tile])
            else:
                torch.addmm(self.bias[tile], self.rows, self.weight[tile].T, out=logits[:, tile])
        return logits

    def fold(self, gradient: Tensor, *, rows: Tensor | None) -> None:
        columns = len(self.weight)
        if self.weight_gradient is not None:
            _add_product(self.weight_gradient[:columns], gradient, self.rows)
        if self.bias_gradient is not None:
            self.bias_gradient[:columns] += gradient.sum(0, dtype=self.bias_gradient.dtype)
        if rows is not None:
            rows.copy_(gradient @ self.weight)


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add the product of the transposed `left` and `right` to `total`, which may be of a wider type."""
    if total.dtype == left.dtype:
        total.addmm_(left.T, right)
        return
    tile = max(1, _TILE_BYTES // (right.shape[1] * total.element_size()))
    for start in range(0, len(total), tile):
        total[start : start + tile] += left[:, start : start + tile].T @ right


class _AnyProjection(Projection):
    """Any other head (with LoRA, or replaced by a plugin), by autograd through the module."""

    def __init__(self, head: Head, differentiate: bool, parameters: Sequence[nn.Parameter]) -> None:
        self.head = head
        self.differentiate = differentiate
        self.parameters = parameters
        self.gradients = {id(parameter): accumulator(parameter) for parameter in parameters}

    def forward(self, rows: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.differentiate):
            self.rows = rows.detach().to(product_type(self.head)).requires_grad_(self.differentiate)
            logits: Tensor = self.head.module(self.rows)
        self.logits = logits
        return logits.detach().clone()  # what the module kept for its own gradient must not be overwritten

    def fold(self, gradient: Tensor, *, rows: Tensor | None) -> None:
        inputs = [self.rows, *self.parameters]
        of_rows, *others = torch.autograd.grad(self.logits, inputs, gradient, allow_unused=True, materialize_grads=True)
        for parameter, part in zip(self.parameters, others, strict=True):
            self.gradients[id(parameter)] += part
        if rows is not None:
            rows.copy_(of_rows)
