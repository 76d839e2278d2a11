"""Token rows as bytes, one string per example, and back: what a shard keeps. LAYOUT.md says it byte by byte.

A position's ids are sorted and coded as a set (`buckets`); its log-probabilities follow in the order of the ids
(`rice`); what there is one of per position lies in columns (`columns`). All examples of a call are coded at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bits import SLACK, Integers, sums
from .buckets import Buckets, choose, decode_ids, encode_ids
from .columns import FIELDS, decode_column, encode_column
from .rice import decode_values, encode_values
from .rows import TokenRows, concatenate
from .steps import to_nats, to_steps

BLOCK = 1 << 16  # values coded at once, so that the intermediate arrays stay in the processor's cache


class Columns(NamedTuple):
    """What there is one of per position: plain numbers and steps, int64 ``[n]``, in the order of their streams."""

    kept: Integers
    tail: Integers
    target: Integers
    entropy: Integers
    lowest: Integers
    rice: Integers


NUM_COLUMNS, NUM_STREAMS = len(Columns._fields), 4
HEADER = np.dtype(
    [
        ("positions", "<u4"),
        ("first_width", "u1"),
        ("per_width", "u1"),
        *((name, dtype, NUM_COLUMNS) for name, dtype in FIELDS.items()),
        ("bytes", "<u4", NUM_STREAMS),
    ]
)


def encode(
    rows: TokenRows, lengths: Sequence[int], vocab_size: int, ranks: NDArray[np.int64] | None = None
) -> list[bytes]:
    """Code the positions of several examples, ``lengths[i]`` of them belonging to example i.

    Args:
        rows: the positions of all examples behind each other.
        lengths: how many each example has.
        vocab_size: V; the id of unused slots.
        ranks: the place of each id in the order by which ids are coded, ``[V]``; by default the id itself.

    Raises:
        ValueError: numbers that are no log-probabilities, ids outside of the vocabulary or twice in a position.
    """
    ends = sums(np.asarray(lengths, dtype=np.int64))
    if ends[-1] != len(rows):
        raise ValueError(f"The lengths add up to {ends[-1]} positions, but {len(rows)} are given.")
    blobs: list[bytes] = []
    while (start := len(blobs)) < len(lengths):
        room = ends[start] + BLOCK // max(1, rows.ids.shape[1])
        stop = max(start + 1, int(np.searchsorted(ends, room, side="right")) - 1)
        blobs += _encode_block(rows[ends[start] : ends[stop]], ends[start : stop + 1] - ends[start], vocab_size, ranks)
    return blobs


def _encode_block(rows: TokenRows, bounds: Integers, vocab_size: int, ranks: Integers | None) -> list[bytes]:
    ids, log_probs, kept = _used_slots(rows, vocab_size, ranks)
    steps = to_steps(log_probs, "log_probs", unknown=False)
    lowest, rice, values = encode_values(steps, kept, bounds)
    tail, target = to_steps(rows.tail, "tail"), to_steps(rows.target, "target")
    columns = Columns(kept, tail, target, to_steps(-rows.entropy, "-entropy"), lowest, rice)
    header = np.zeros(len(bounds) - 1, dtype=HEADER)
    header["positions"] = np.diff(bounds)
    buckets = choose(ids, kept, vocab_size)
    header["first_width"], header["per_width"] = buckets
    streams = [*encode_ids(ids, kept, bounds, buckets, vocab_size), *values]
    for index, (_, limits) in enumerate(streams):
        header["bytes"][:, index] = np.diff(limits)
    parts = [encode_column(header, index, column, bounds) for index, column in enumerate(columns)] + streams
    pieces = [(part.tobytes(), limits.tolist()) for part, limits in parts]
    return [
        b"".join([header[i].tobytes(), *(piece[limits[i] : limits[i + 1]] for piece, limits in pieces)])
        for i in range(len(header))
    ]


def _used_slots(
    rows: TokenRows, vocab_size: int, ranks: Integers | None
) -> tuple[Integers, NDArray[np.float32], Integers]:
    """The ranks and log-probabilities of all kept ids, sorted by rank in each position, and how many it has."""
    ids = rows.ids
    if ids.size and (ids.min() < 0 or ids.max() > vocab_size):
        raise ValueError(
            f"Ids go from {ids.min()} to {ids.max()}; expected 0 to {vocab_size - 1}, and {vocab_size} in unused slots."
        )
    coded = ids if ranks is None else np.append(ranks, vocab_size)[ids]
    order = coded.argsort(axis=1)
    coded = np.take_along_axis(coded, order, axis=1)
    used = coded < vocab_size
    if ((coded[:, 1:] == coded[:, :-1]) & used[:, 1:]).any():
        raise ValueError("A position holds an id twice; expected every kept id once.")
    return coded[used], np.take_along_axis(rows.log_probs, order, axis=1)[used], used.sum(axis=1)


def decode(
    blobs: Sequence[bytes | memoryview], vocab_size: int, order: NDArray[np.int64] | None = None
) -> tuple[TokenRows, Integers]:
    """The positions of all examples behind each other, and how many each has.

    The slots of a position come back in the order in which ids are coded, the unused ones last.

    Args:
        blobs: what `encode` made.
        vocab_size: V.
        order: the ids in the order by which they were coded (the inverse of `ranks`), ``[V]``.
    """
    ends = sums(np.array([len(blob) for blob in blobs], dtype=np.int64))
    parts, start = [], 0
    while start < len(blobs):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] + 2 * BLOCK, side="right")) - 1)
        parts.append(_decode_block(blobs[start:stop], vocab_size, order))
        start = stop
    if len(parts) == 1:
        return parts[0]
    lengths = np.concatenate([lengths for _, lengths in parts] or [np.zeros(0, dtype=np.int64)])
    return concatenate([rows for rows, _ in parts], vocab_size), lengths


def _decode_block(
    blobs: Sequence[bytes | memoryview], vocab_size: int, order: Integers | None
) -> tuple[TokenRows, Integers]:
    data = np.frombuffer(b"".join([*blobs, bytes(SLACK)]), dtype=np.uint8)
    place = sums(np.array([len(blob) for blob in blobs], dtype=np.int64))[:-1]
    header = np.frombuffer(data[place[:, None] + np.arange(HEADER.itemsize)].tobytes(), dtype=HEADER)
    lengths = header["positions"].astype(np.int64)
    bounds = sums(lengths)
    place = place + HEADER.itemsize
    found = []
    for index in range(NUM_COLUMNS):
        found.append(decode_column(data, header, index, bounds, place))
        place = place + ((lengths * header["width"][:, index] + 7) >> 3)
    columns = Columns(*found)
    sizes = header["bytes"].astype(np.int64)
    first = place[:, None] + np.cumsum(sizes, axis=1) - sizes
    buckets = [Buckets(*pair) for pair in header[["first_width", "per_width"]].tolist()]
    kept = columns.kept
    ids = decode_ids(data, kept, bounds, (first[:, 0], sizes[:, 0], first[:, 1]), buckets, vocab_size)
    if order is not None:
        ids = order[ids]
    streams = first[:, 2], sizes[:, 2], first[:, 3]
    log_probs = decode_values(data, kept, columns.lowest, columns.rice, bounds, streams)
    rows = TokenRows(
        ids=_padded(ids, kept, vocab_size),
        log_probs=_padded(log_probs, kept, -np.inf),
        tail=to_nats(columns.tail),
        target=to_nats(columns.target),
        entropy=-to_nats(columns.entropy),
    )
    return rows, lengths


def _padded(values: NDArray[Any], kept: Integers, filling: float) -> NDArray[Any]:
    """``[n, k]`` from the used slots of all positions behind each other."""
    k = int(kept.max(initial=0))
    if (kept == k).all():
        return values.reshape(len(kept), k)
    slots = np.full((len(kept), k), filling, dtype=values.dtype)
    slots[np.arange(k) < kept[:, None]] = values
    return slots
