"""Token rows as bytes, one string per example, and back: what a shard keeps. LAYOUT.md says it byte by byte.

Numbers are whole steps of 1/16 nat, so that rounding costs at most `BOUND`. A position's ids are sorted and coded as a
set (`buckets`); the log-probabilities follow in the order of the ids, as steps above the position's lowest in Rice code
(a quotient in unary and r bits), since most of k kept words lie near the lowest. What there is one of per position lies
in columns of a width chosen per example. All examples of a call are coded at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .bits import SLACK, Bytes, Integers, bit_length, find_bits, gather, layout, place, scatter, set_bits, sums
from .buckets import Buckets, choose, cut
from .rows import BOUND, FLOOR, TokenRows

STEPS = round(1 / (2 * BOUND))  # a nat
COLUMNS = ("kept", "tail", "target", "entropy", "lowest", "rice")
STREAMS = ("id_buckets", "id_bits", "value_quotients", "value_bits")
# Codes of what is no number, below all steps.
INFINITE, UNKNOWN = -1, -2
HEADER = np.dtype(
    [
        ("positions", "<u4"),
        ("first_width", "u1"),
        ("per_width", "u1"),
        ("minimum", "<u4", len(COLUMNS)),
        ("width", "u1", len(COLUMNS)),
        ("special", "u1", len(COLUMNS)),
        ("bytes", "<u4", len(STREAMS)),
    ]
)


class Columns(NamedTuple):
    """What there is one of per position, as steps or plain numbers, int64 ``[n]``."""

    kept: Integers
    tail: Integers
    target: Integers
    entropy: Integers
    lowest: Integers
    rice: Integers


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
    bounds = sums(np.asarray(lengths, dtype=np.int64))
    if bounds[-1] != len(rows):
        raise ValueError(f"The lengths add up to {bounds[-1]} positions, but {len(rows)} are given.")
    ids, log_probs, counts = _flat(rows, vocab_size, ranks)
    steps = _steps(log_probs, "log_probs")
    codes, lowest, rice = _above_lowest(steps, counts)
    entropy = _steps(-rows.entropy, "entropy")
    columns = Columns(counts, _steps(rows.tail, "tail"), _steps(rows.target, "target"), entropy, lowest, rice)
    header = np.zeros(len(lengths), dtype=HEADER)
    header["positions"] = lengths
    chosen = choose(ids, counts, vocab_size)
    header["first_width"], header["per_width"] = chosen
    parts = [_encode_column(header, index, column, bounds) for index, column in enumerate(columns)]
    streams = [*_encode_ids(ids, counts, bounds, cut(chosen, vocab_size)), *_encode_values(codes, rice, counts, bounds)]
    for index, (_, byte_bounds) in enumerate(streams):
        header["bytes"][:, index] = np.diff(byte_bounds)
    parts += streams
    data = [memoryview(part) for part, _ in parts]  # type: ignore[arg-type]
    limits = [byte_bounds.tolist() for _, byte_bounds in parts]
    heads = [header[index].tobytes() for index in range(len(header))]
    return [
        b"".join([head, *(part[limit[i] : limit[i + 1]] for part, limit in zip(data, limits, strict=True))])
        for i, head in enumerate(heads)
    ]


def _flat(rows: TokenRows, vocab_size: int, ranks: Integers | None) -> tuple[Integers, NDArray[np.float32], Integers]:
    """The used slots in the order in which they are coded, and how many each position has."""
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


def _steps(values: NDArray[np.float32], name: str) -> Integers:
    """Whole steps of 1/16 nat below zero."""
    if (values > BOUND).any() or (name == "log_probs" and np.isnan(values).any()):
        bad = values[(values > BOUND) | np.isnan(values)][0]
        sign = -1 if name == "entropy" else 1
        raise ValueError(f"{name} holds {sign * bad:.4g}; expected numbers {'>' if sign < 0 else '<'}= 0, in nats.")
    with np.errstate(invalid="ignore"):
        steps = np.where(values < FLOOR, INFINITE, np.rint(np.maximum(values, FLOOR) * -STEPS))
    return np.where(np.isnan(values), UNKNOWN, np.maximum(steps, INFINITE)).astype(np.int64)


def _above_lowest(steps: Integers, counts: Integers) -> tuple[Integers, Integers, Integers]:
    """Codes of the log-probabilities, the steps of each position's lowest, and its Rice parameter and -inf flag."""
    starts, owners = sums(counts), np.repeat(np.arange(len(counts)), counts)
    lowest, infinite = np.zeros(len(counts), dtype=np.int64), np.zeros(len(counts), dtype=bool)
    kept = np.flatnonzero(counts)
    if len(kept):
        lowest[kept] = np.maximum(np.maximum.reduceat(steps, starts[kept]), 0)
        infinite[kept] = np.minimum.reduceat(steps, starts[kept]) == INFINITE
    codes = np.where(steps == INFINITE, 0, lowest[owners] - steps + infinite[owners])
    cheapest, rice = np.full(len(counts), np.iinfo(np.int64).max), np.zeros(len(counts), dtype=np.int64)
    quotients = codes.copy()
    for r in range(int(bit_length(codes.max(initial=0, keepdims=True))[0]) + 1):
        cost = np.diff(sums(quotients)[starts]) + r * counts
        rice[cost < cheapest] = r
        cheapest = np.minimum(cheapest, cost)
        quotients >>= 1
    return codes, lowest, 2 * rice + infinite


def _encode_column(header: NDArray[np.void], index: int, column: Integers, bounds: Integers) -> tuple[Bytes, Integers]:
    """One number per position, above the example's least, after the codes 0 (-inf) and 1 (unknown) where they occur."""
    examples = np.flatnonzero(np.diff(bounds))
    least, special = np.zeros(len(header), dtype=np.int64), np.zeros(len(header), dtype=np.int64)
    width = np.zeros(len(header), dtype=np.int64)
    owners = np.repeat(np.arange(len(header)), np.diff(bounds))
    if len(examples):
        starts = bounds[examples]
        least[examples] = np.minimum.reduceat(np.where(column < 0, np.iinfo(np.int64).max, column), starts)
        least[least == np.iinfo(np.int64).max] = 0
        special[examples] = 2 * (np.minimum.reduceat(column, starts) < 0)
        codes = np.where(column < 0, -1 - column, column - least[owners] + special[owners])
        width[examples] = bit_length(np.maximum.reduceat(codes, starts))
    else:
        codes = column
    header["minimum"][:, index], header["special"][:, index], header["width"][:, index] = least, special, width
    offsets, byte_bounds = layout(width[owners], bounds)
    return scatter(codes, offsets, int(byte_bounds[-1])), byte_bounds


def _encode_ids(
    ids: Integers, counts: Integers, bounds: Integers, table: tuple[Integers, Integers]
) -> list[tuple[Bytes, Integers]]:
    """Per id a one, after a zero for each bucket since the position's last id; and its bits inside of the bucket."""
    starts, widths = table
    bucket = np.searchsorted(starts, ids, side="right") - 1
    limits = sums(counts)
    last = np.zeros(len(counts), dtype=np.int64)
    last[counts > 0] = bucket[limits[1:][counts > 0] - 1]
    offsets, unary_bounds = layout(counts + last, bounds)
    ones = np.repeat(offsets - limits[:-1], counts) + np.arange(len(ids)) + bucket
    places, bit_bounds = layout(widths[bucket], limits[bounds])
    bits = scatter(ids - starts[bucket], places, int(bit_bounds[-1]))
    return [(set_bits(ones, int(unary_bounds[-1])), unary_bounds), (bits, bit_bounds)]


def _encode_values(codes: Integers, rice: Integers, counts: Integers, bounds: Integers) -> list[tuple[Bytes, Integers]]:
    """Per value its quotient in zeros and a one; and the remainder."""
    widths = np.repeat(rice >> 1, counts)
    quotients = codes >> widths
    limits = sums(counts)[bounds]
    offsets, unary_bounds = layout(quotients + 1, limits)
    places, bit_bounds = layout(widths, limits)
    bits = scatter(codes - (quotients << widths), places, int(bit_bounds[-1]))
    return [(set_bits(offsets + quotients, int(unary_bounds[-1])), unary_bounds), (bits, bit_bounds)]


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
    data = np.frombuffer(b"".join([*blobs, bytes(SLACK)]), dtype=np.uint8)
    starts = sums(np.array([len(blob) for blob in blobs], dtype=np.int64))[:-1]
    header = np.frombuffer(data[starts[:, None] + np.arange(HEADER.itemsize)].tobytes(), dtype=HEADER)
    lengths = header["positions"].astype(np.int64)
    bounds = sums(lengths)
    starts = starts + HEADER.itemsize
    found = []
    for index in range(len(COLUMNS)):
        found.append(_decode_column(data, header, index, bounds, starts))
        starts = starts + ((lengths * header["width"][:, index] + 7) >> 3)
    columns = Columns(*found)
    sizes = header["bytes"].astype(np.int64)
    first = [starts + before for before in np.cumsum(np.pad(sizes, ((0, 0), (1, 0)))[:, :-1], axis=1).T]
    ids = _decode_ids(data, header, columns, bounds, (first[0], sizes[:, 0], first[1]), vocab_size)
    values = _decode_values(data, columns, bounds, (first[2], sizes[:, 2], first[3]))
    if order is not None:
        ids = order[ids]
    k = int(columns.kept.max(initial=0))
    if (columns.kept == k).all():
        slots = ids.reshape(-1, k), values.reshape(-1, k)
    else:
        used = np.arange(k) < columns.kept[:, None]
        slots = np.full(used.shape, vocab_size), np.full(used.shape, -np.inf, dtype=np.float32)
        slots[0][used], slots[1][used] = ids, values
    return TokenRows(*slots, _nats(columns.tail), _nats(columns.target), -_nats(columns.entropy)), lengths


def _nats(steps: Integers) -> NDArray[np.float32]:
    """The inverse of `_steps`, up to rounding."""
    values = steps.astype(np.float32) / np.float32(-STEPS)
    values[steps == INFINITE] = -np.inf
    values[steps == UNKNOWN] = np.nan
    return values


def _decode_column(data: Bytes, header: NDArray[np.void], index: int, bounds: Integers, starts: Integers) -> Integers:
    lengths = np.diff(bounds)
    minimum, width, special = (
        np.repeat(header[name][:, index].astype(np.int64), lengths) for name in ("minimum", "width", "special")
    )
    codes = gather(data, width, place(width, bounds, starts))
    return np.where(codes < special, -1 - codes, codes - special + minimum)


def _ones(data: Bytes, starts: Integers, sizes: Integers, bounds: Integers) -> tuple[Integers, Integers]:
    """Where the ones of all streams are, in bits, and where the bit after the one before each of them is."""
    stream = np.concatenate([data[a:b] for a, b in zip(starts.tolist(), (starts + sizes).tolist(), strict=True)])
    ones = find_bits(stream)
    after = np.zeros(len(ones), dtype=np.int64)
    after[1:] = ones[:-1] + 1
    filled = np.diff(bounds) > 0
    after[bounds[:-1][filled]] = sums(sizes)[:-1][filled] * 8
    return ones, after


def _decode_ids(
    data: Bytes,
    header: NDArray[np.void],
    columns: Columns,
    bounds: Integers,
    streams: tuple[Integers, Integers, Integers],
    vocab_size: int,
) -> Integers:
    limits = sums(columns.kept)
    ones, after = _ones(data, streams[0], streams[1], limits[bounds])
    kept = columns.kept > 0
    zero = np.zeros(len(kept), dtype=np.int64)
    zero[kept] = after[limits[:-1][kept]] - limits[:-1][kept]  # the position's first bit, less the ones before it
    bucket = ones - np.arange(len(ones)) - np.repeat(zero, columns.kept)
    cuts, which = np.unique(np.stack([header["first_width"], header["per_width"]], axis=1), axis=0, return_inverse=True)
    tables = [cut(Buckets(int(width), int(many)), vocab_size) for width, many in cuts]
    if len(tables) > 1:  # the tables behind each other
        rows = np.repeat(sums(np.array([len(table[0]) for table in tables]))[which], np.diff(bounds))
        bucket += np.repeat(rows, columns.kept)
    starts, widths = (np.concatenate([table[part] for table in tables]) for part in (0, 1))
    width = widths[bucket]
    ids: Integers = starts[bucket]
    ids += gather(data, width, place(width, limits[bounds], streams[2]))
    return ids


def _decode_values(
    data: Bytes, columns: Columns, bounds: Integers, streams: tuple[Integers, Integers, Integers]
) -> NDArray[np.float32]:
    limits = sums(columns.kept)[bounds]
    ones, after = _ones(data, streams[0], streams[1], limits)
    width = np.repeat(columns.rice >> 1, columns.kept)
    codes = ((ones - after) << width) + gather(data, width, place(width, limits, streams[2]))
    infinite = columns.rice & 1
    steps = np.repeat(columns.lowest + infinite, columns.kept) - codes
    values: NDArray[np.float32] = steps.astype(np.float32) / np.float32(-STEPS)
    if infinite.any():
        values[(codes == 0) & np.repeat(infinite.astype(bool), columns.kept)] = -np.inf
    return values
