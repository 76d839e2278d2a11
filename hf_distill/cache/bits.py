"""Whole numbers as streams of bits: many streams at once, without a loop over numbers.

A stream starts at a byte; its bit i is bit ``i % 8`` (from the least significant) of byte ``i // 8``. Streams belong to
groups (the examples of a batch) of neighbouring items, whose limits are `bounds`: group g holds items
``bounds[g]`` to ``bounds[g + 1] - 1``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Bytes = NDArray[np.uint8]

SLACK = 8
"""Bytes that must follow the last stream that `gather` reads."""
_MASKS = (np.uint64(1) << np.arange(33, dtype=np.uint64)) - np.uint64(1)


def sums(numbers: Integers) -> Integers:
    """Running sums that start with 0 and end with the total, ``[len + 1]``."""
    found = np.zeros(len(numbers) + 1, dtype=np.int64)
    np.cumsum(numbers, out=found[1:])
    return found


def bit_length(numbers: Integers) -> Integers:
    """How many bits hold each number (below 2^53); none for 0."""
    return np.frexp(numbers.astype(np.float64))[1].astype(np.int64)


def place(widths: Integers, bounds: Integers, first_bytes: Integers) -> Integers:
    """Bit offsets of items of `widths` bits behind each other, each group from its byte in `first_bytes` on."""
    ends = sums(widths)
    return ends[:-1] + np.repeat(first_bytes * 8 - ends[bounds[:-1]], np.diff(bounds))


def layout(widths: Integers, bounds: Integers) -> tuple[Integers, Integers]:
    """Offsets as `place` gives them for groups without gaps, and the limits of the groups in bytes."""
    ends = sums(widths)[bounds]
    byte_bounds = sums((np.diff(ends) + 7) >> 3)
    return place(widths, bounds, byte_bounds[:-1]), byte_bounds


def scatter(values: Integers, offsets: Integers, num_bytes: int) -> Bytes:
    """Write values below 2^32 at their bit offsets; the places do not overlap."""
    # A value touches at most two words of 32 bits; sums of what does not overlap are exact in float64.
    shifted = values.astype(np.uint64) << (offsets & 31).astype(np.uint64)
    words = np.zeros(num_bytes // 4 + 2)
    for word, part in ((offsets >> 5, shifted & _MASKS[32]), ((offsets >> 5) + 1, shifted >> np.uint64(32))):
        words += np.bincount(word, weights=part.astype(np.float64), minlength=len(words))[: len(words)]
    return words.astype("<u4").view(np.uint8)[:num_bytes]


def gather(data: Bytes, widths: Integers, offsets: Integers) -> Integers:
    """Read values of `widths` bits (at most 32) at their bit offsets; the inverse of `scatter`."""
    # One unaligned load per value instead of one per byte.
    words: NDArray[np.uint64] = np.ndarray(shape=(len(data) - 7,), dtype="<u8", buffer=data, strides=(1,))
    found: NDArray[np.uint64] = words[offsets >> 3] >> (offsets & 7).astype(np.uint64)
    found &= _MASKS[widths]
    return found.view(np.int64)


def set_bits(positions: Integers, num_bytes: int) -> Bytes:
    """A stream whose bits at `positions` are set, and no other."""
    bits = np.zeros(num_bytes * 8, dtype=np.uint8)
    bits[positions] = 1
    return np.packbits(bits, bitorder="little")


def find_bits(data: Bytes) -> Integers:
    """Where the bits of a stream are set; the inverse of `set_bits`."""
    return np.flatnonzero(np.unpackbits(data, bitorder="little").view(bool))


def find_ones(data: Bytes, starts: Integers, sizes: Integers, bounds: Integers) -> tuple[Integers, Integers]:
    """Where the ones of all groups' streams are, in bits, and for each of them the bit after the one before it.

    Positions count in the streams behind each other; `bounds` are the limits of the groups in ones.
    """
    stream = np.concatenate([data[a:b] for a, b in zip(starts.tolist(), (starts + sizes).tolist(), strict=True)])
    ones = find_bits(stream)
    after = np.zeros(len(ones), dtype=np.int64)
    after[1:] = ones[:-1] + 1
    filled = np.diff(bounds) > 0
    after[bounds[:-1][filled]] = sums(sizes)[:-1][filled] * 8
    return ones, after
