"""The log-probabilities of a position's ids, in their order: steps above the lowest, in Rice code.

A number is a quotient in unary and r bits, with the r of each position that costs least: most of k kept words lie near
the lowest. Where a position has -inf among them, that is number 0, and the steps count from 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bits import Bytes, Integers, find_ones, gather, layout, place, scatter, set_bits, sums
from .steps import INFINITE, to_nats


def encode_values(
    steps: Integers, kept: Integers, bounds: Integers
) -> tuple[Integers, Integers, list[tuple[Bytes, Integers]]]:
    """Code the steps of all positions, `kept` of them each.

    Returns:
        The steps of each position's lowest value; twice its r, plus one where it holds -inf; and two streams with the
        limits of the examples in them: quotients (that many zeros and a one) and remainders.
    """
    starts, filled = sums(kept), np.flatnonzero(kept)
    lowest, infinite = np.zeros(len(kept), dtype=np.int64), np.zeros(len(kept), dtype=np.int64)
    if len(filled):
        lowest[filled] = np.maximum(np.maximum.reduceat(steps, starts[filled]), 0)
        infinite[filled] = np.minimum.reduceat(steps, starts[filled]) == INFINITE
    numbers = np.where(steps == INFINITE, 0, np.repeat(lowest + infinite, kept) - steps)
    r = _cheapest(numbers, kept)
    widths = np.repeat(r, kept)
    quotients = numbers >> widths
    limits = starts[bounds]
    offsets, unary_bounds = layout(quotients + 1, limits)
    ones = set_bits(offsets + quotients, int(unary_bounds[-1]))
    offsets, bit_bounds = layout(widths, limits)
    remainders = scatter(numbers - (quotients << widths), offsets, int(bit_bounds[-1]))
    return lowest, 2 * r + infinite, [(ones, unary_bounds), (remainders, bit_bounds)]


def _cheapest(numbers: Integers, kept: Integers) -> Integers:
    """The r by which the numbers of each position take least bits."""
    best = np.zeros(len(kept), dtype=np.int64)
    filled = np.flatnonzero(kept)
    if not len(filled):
        return best
    starts, sizes, found = sums(kept)[filled], kept[filled], np.zeros(len(filled), dtype=np.int64)
    least = np.add.reduceat(numbers, starts)
    r = 1
    while (r * sizes < least).any():  # what the remainders alone take
        numbers = numbers >> 1
        cost = np.add.reduceat(numbers, starts) + r * sizes
        found[cost < least] = r
        np.minimum(least, cost, out=least)
        r += 1
    best[filled] = found
    return best


def decode_values(
    data: Bytes,
    kept: Integers,
    lowest: Integers,
    rice: Integers,
    bounds: Integers,
    streams: tuple[Integers, Integers, Integers],
) -> NDArray[np.float32]:
    """The inverse of `encode_values`, in nats.

    Args:
        data: holds the streams of all examples.
        kept: how many values each position has.
        lowest: as `encode_values` gave it.
        rice: likewise.
        bounds: limits of the examples in positions.
        streams: where the quotients of each example start, how many bytes they are, and where the remainders start.
    """
    limits = sums(kept)[bounds]
    ones, after = find_ones(data, streams[0], streams[1], limits)
    width = np.repeat(rice >> 1, kept)
    numbers = ((ones - after) << width) + gather(data, width, place(width, limits, streams[2]))
    infinite = rice & 1
    steps = np.repeat(lowest + infinite, kept) - numbers
    if infinite.any():
        steps[(numbers == 0) & np.repeat(infinite == 1, kept)] = INFINITE
    return to_nats(steps)
