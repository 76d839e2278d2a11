"""Sets of ids as buckets: which of the vocabulary's buckets each id lies in (in unary), and where in it (in bits).

With buckets of one size this is Elias-Fano coding. Vocabularies are roughly in order of frequency, and kept ids crowd
at the start: buckets that grow, `per_width` of each power of two, cost less there. The ids decide which.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from .bits import Integers, bit_length, sums

MAX_WIDTH = 24


class Buckets(NamedTuple):
    """How a vocabulary is cut.

    Attributes:
        first_width: the first bucket holds ``2**first_width`` ids.
        per_width: how many buckets there are of each size before it doubles; 0 where it never does.
    """

    first_width: int
    per_width: int


@functools.lru_cache(maxsize=4096)
def cut(buckets: Buckets, vocab_size: int) -> tuple[Integers, Integers]:
    """The first id of each bucket and the bits that an id takes in it."""
    count = -(-vocab_size >> buckets.first_width) if buckets.per_width == 0 else vocab_size
    if buckets.per_width:
        doublings = np.arange(count) // buckets.per_width
        widths = np.minimum(buckets.first_width + doublings, MAX_WIDTH)
    else:
        widths = np.full(count, buckets.first_width)
    starts = np.concatenate([[0], np.cumsum(1 << widths)[:-1]])
    count = int(np.searchsorted(starts, vocab_size))
    return starts[:count], widths[:count]


def choose(ids: Integers, counts: Integers, vocab_size: int, sample: int = 64) -> Buckets:
    """The cheapest cut for `ids`, sorted inside each position and `counts` of them a position, by a sample of those."""
    kept = np.flatnonzero(counts)
    kept = kept[:: -(-len(kept) // sample)] if len(kept) else kept
    ends = sums(counts)
    ids = ids[np.concatenate([np.arange(ends[row], ends[row + 1]) for row in kept])] if len(kept) else ids[:0]
    last = np.cumsum(counts[kept]) - 1
    mean = max(1.0, len(ids) / max(1, len(kept)))
    per_width = {0} | {min(255, max(1, round(mean * part))) for part in (1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2)}
    spread = int(bit_length(np.array(int(vocab_size / mean)))) + 1  # wider first buckets than this are never cheaper

    def cost(buckets: Buckets) -> int:
        starts, widths = cut(buckets, vocab_size)
        found = np.searchsorted(starts, ids, side="right") - 1
        return int(widths[found].sum() + found[last].sum())

    narrowest = max(0, spread - 4)  # of equal buckets: as many as there are ids are about right
    candidates = [Buckets(w, m) for m in sorted(per_width) for w in range(0 if m else narrowest, spread + 1)]
    return min(candidates, key=cost)
