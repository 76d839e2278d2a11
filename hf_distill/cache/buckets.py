"""Sets of ids as buckets: which of the vocabulary's buckets each id lies in (in unary), and where in it (in bits).

With buckets of one size this is Elias-Fano coding. Vocabularies are roughly in order of frequency, and kept ids crowd
at the start: buckets that grow, `per_width` of each power of two, cost less there. The ids decide which.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .bits import Bytes, Integers, bit_length, find_ones, gather, layout, place, scatter, set_bits, sums

MAX_WIDTH = 24  # the whole of any vocabulary


class Buckets(NamedTuple):
    """How a vocabulary is cut.

    Attributes:
        first_width: the first bucket holds ``2**first_width`` ids.
        per_width: how many buckets there are of each size before it doubles; 0 where it never does.
    """

    first_width: int
    per_width: int


@functools.lru_cache(maxsize=256)
def cut(buckets: Buckets, vocab_size: int) -> tuple[Integers, Integers]:
    """The first id of each bucket and the bits that an id takes in it."""
    if buckets.per_width:
        widths = np.repeat(np.arange(buckets.first_width, MAX_WIDTH + 1), buckets.per_width)
    else:
        widths = np.full(-(-vocab_size >> buckets.first_width), buckets.first_width)
    starts = np.concatenate([[0], np.cumsum(1 << widths)[:-1]])
    count = int(np.searchsorted(starts, vocab_size))
    return starts[:count], widths[:count]


def choose(ids: Integers, kept: Integers, vocab_size: int, sample: int = 64) -> Buckets:
    """The cheapest cut for `ids`, sorted inside each position and `kept` of them a position, by a sample of those."""
    positions = np.flatnonzero(kept)
    if not len(positions):
        return Buckets(0, 1)
    positions = positions[:: -(-len(positions) // sample)]
    ends = sums(kept)
    last = ids[ends[positions + 1] - 1]
    ids = np.sort(np.concatenate([ids[ends[position] : ends[position + 1]] for position in positions]))
    mean = len(ids) / len(positions)
    per_width = {min(255, max(1, round(mean * part))) for part in (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)}
    spread = int(bit_length(np.array(int(vocab_size / mean)))) + 1  # a wider first bucket never costs less

    def cost(buckets: Buckets) -> int:
        starts, widths = cut(buckets, vocab_size)
        inside = np.diff(np.searchsorted(ids, starts), append=len(ids))
        zeros = np.searchsorted(starts, last, side="right") - 1  # each bucket before the last id takes one
        return int(inside @ widths + zeros.sum())

    equal = [Buckets(width, 0) for width in range(max(0, spread - 4), spread + 1)]
    growing = [Buckets(width, many) for many in sorted(per_width) for width in range(spread + 1)]
    return min(equal + growing, key=cost)


def encode_ids(
    ids: Integers, kept: Integers, bounds: Integers, buckets: Buckets, vocab_size: int
) -> list[tuple[Bytes, Integers]]:
    """Code the ids of all positions, `kept` of them each, sorted inside the position.

    Returns:
        Two streams with the limits of the examples in them: for each id a one, after a zero for each bucket since the
        position's last id; and the places of the ids in their buckets.
    """
    starts, widths = cut(buckets, vocab_size)
    found = np.searchsorted(starts, ids, side="right") - 1
    limits = sums(kept)
    last = np.zeros(len(kept), dtype=np.int64)
    last[kept > 0] = found[limits[1:][kept > 0] - 1]
    offsets, unary_bounds = layout(kept + last, bounds)
    ones = np.repeat(offsets - limits[:-1], kept) + np.arange(len(ids)) + found
    offsets, bit_bounds = layout(widths[found], limits[bounds])
    inside = scatter(ids - starts[found], offsets, int(bit_bounds[-1]))
    return [(set_bits(ones, int(unary_bounds[-1])), unary_bounds), (inside, bit_bounds)]


def decode_ids(
    data: Bytes,
    kept: Integers,
    bounds: Integers,
    streams: tuple[Integers, Integers, Integers],
    buckets: list[Buckets],
    vocab_size: int,
) -> Integers:
    """The inverse of `encode_ids`.

    Args:
        data: holds the streams of all examples.
        kept: how many ids each position has.
        bounds: limits of the examples in positions.
        streams: where the ones of each example start, how many bytes they are, and where the places start.
        buckets: those of each example.
        vocab_size: V.
    """
    limits = sums(kept)
    ones, after = find_ones(data, streams[0], streams[1], limits[bounds])
    filled = kept > 0
    zero = np.zeros(len(kept), dtype=np.int64)
    zero[filled] = after[limits[:-1][filled]] - limits[:-1][filled]  # the position's first bit, less earlier ones
    found = ones - np.arange(len(ones)) - np.repeat(zero, kept)
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(buckets))}
    tables = [cut(kind, vocab_size) for kind in kinds]
    if len(tables) > 1:  # one behind the other
        first = sums(np.array([len(starts) for starts, _ in tables]))[[kinds[kind] for kind in buckets]]
        found += np.repeat(np.repeat(first, np.diff(bounds)), kept)
    starts, widths = (np.concatenate([table[part] for table in tables]) for part in (0, 1))
    width = widths[found]
    ids: Integers = starts[found]
    ids += gather(data, width, place(width, limits[bounds], streams[2]))
    return ids
