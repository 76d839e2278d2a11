"""Tensors of predictions by chunk, on the device and without waiting for it.

Shape letters: B examples, S positions, R predictions in chunks, K chunks at most.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from hf_distill import Rows, Signal, SparseRows, log_probs_of

AnyRows = TypeVar("AnyRows", bound=Rows | SparseRows)


def chunk_sums(values: Tensor, chunks: Tensor, num_chunks: int) -> Tensor:
    """Sums of values ``[B, R]`` by chunk, ``[B, K]``; those of chunk -1 are dropped."""
    index = torch.where(chunks < 0, num_chunks, chunks)
    sums = values.new_zeros(len(values), num_chunks + 1).scatter_add(1, index, values)
    return sums[:, :num_chunks]


def whole_chunks(predicted: Tensor, chunks: Tensor) -> Tensor:
    """Which chunks there are, with all of their tokens predicted, ``[B, R]``: no more chunks than tokens.

    Args:
        predicted: whether each token's prediction counts, ``[B, R]``.
        chunks: the chunk of each token, ``[B, R]``.
    """
    size = chunks.shape[1]
    missing = chunk_sums((~predicted).float(), chunks, size)
    there = chunk_sums(torch.ones_like(missing), chunks, size)
    return (there > 0) & (missing == 0)


def at(positions: Tensor, by_position: Tensor) -> Tensor:
    """The values at some positions, ``[B, R]`` of ``[B, S]``; those of position -1 mean nothing."""
    return by_position.gather(1, positions.clamp(min=0))


def rows_at(rows: AnyRows, positions: Tensor) -> AnyRows:
    """Predictions at some positions ``[B, R]``, flattened to ``[B * R]``."""
    examples = torch.arange(len(positions), device=positions.device)[:, None].expand_as(positions)
    index = examples.flatten(), positions.clamp(min=0).flatten()
    if isinstance(rows, Rows):
        states, logits = (None if values is None else values[index] for values in (rows.states, rows.logits))
        return replace(rows, states=states, logits=logits)
    return rows[index]  # type: ignore[return-value]


def next_log_probs(teacher: Signal, positions: Tensor, token_ids: Tensor) -> Tensor:
    """What a teacher gives to the token that really comes next, ``[B, Q]``, without gradient.

    Args:
        teacher: its signal about its own tokens.
        positions: where, ``[B, Q]``.
        token_ids: its tokens, ``[B, L]``.
    """
    rows = teacher.rows
    assert rows is not None
    if isinstance(rows, SparseRows) and rows.next_log_probs is not None:
        return at(positions, rows.next_log_probs)
    following = at(positions + 1, token_ids)
    chosen, columns = rows_at(rows, positions), following.flatten()
    values = chosen.log_probs_of(columns) if isinstance(chosen, SparseRows) else log_probs_of(chosen, columns)
    return values.view(positions.shape)
