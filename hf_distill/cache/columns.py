"""What there is one of per position: numbers above the example's least, in as many bits as the example needs.

Where an example has numbers that are none, -inf is 0, NaN is 1, and the others count from 2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .bits import Bytes, Integers, bit_length, gather, layout, place, scatter

Header = NDArray[Any]
FIELDS: dict[str, str] = {"minimum": "<u4", "width": "u1", "special": "u1"}


def encode_column(header: Header, index: int, column: Integers, bounds: Integers) -> tuple[Bytes, Integers]:
    """Code a column of all positions; its `FIELDS` go into the header of each example.

    Returns:
        A stream and the limits of the examples in it.
    """
    lengths = np.diff(bounds)
    filled = np.flatnonzero(lengths)
    found = {name: np.zeros(len(lengths), dtype=np.int64) for name in FIELDS}
    codes = column
    if len(filled):
        starts, huge = bounds[filled], np.iinfo(np.int64).max
        least = np.minimum.reduceat(np.where(column < 0, huge, column), starts)
        found["minimum"][filled] = np.where(least == huge, 0, least)
        found["special"][filled] = 2 * (np.minimum.reduceat(column, starts) < 0)
        codes = np.where(column < 0, -1 - column, column + np.repeat(found["special"] - found["minimum"], lengths))
        found["width"][filled] = bit_length(np.maximum.reduceat(codes, starts))
    for name, numbers in found.items():
        header[name][:, index] = numbers
    offsets, byte_bounds = layout(np.repeat(found["width"], lengths), bounds)
    return scatter(codes, offsets, int(byte_bounds[-1])), byte_bounds


def decode_column(data: Bytes, header: Header, index: int, bounds: Integers, starts: Integers) -> Integers:
    """The inverse of `encode_column`; the column of each example starts at its byte in `starts`."""
    lengths = np.diff(bounds)
    minimum, width, special = (np.repeat(header[name][:, index].astype(np.int64), lengths) for name in FIELDS)
    codes = gather(data, width, place(width, bounds, starts))
    return np.where(codes < special, -1 - codes, codes - special + minimum)
