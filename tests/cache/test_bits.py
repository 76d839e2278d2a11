"""Streams of bits, against Python's own whole numbers."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hf_distill.cache.bits import SLACK, bit_length, find_bits, gather, layout, scatter, set_bits

fields = st.integers(0, 32).flatmap(lambda width: st.tuples(st.just(width), st.integers(0, 2**width - 1)))
groups = st.lists(st.lists(fields, max_size=9), min_size=1, max_size=4)


@given(groups)
def test_fields_of_any_width_are_packed_one_after_another_and_come_back_unchanged(groups):
    widths, values = (np.array([field[part] for group in groups for field in group], np.int64) for part in (0, 1))
    bounds = np.cumsum([0, *map(len, groups)])
    offsets, byte_bounds = layout(widths, bounds)
    data = scatter(values, offsets, int(byte_bounds[-1]))
    for number, group in enumerate(groups):
        expected, place = 0, 0
        for width, value in group:
            expected |= value << place
            place += width
        part = data[byte_bounds[number] : byte_bounds[number + 1]]
        assert int.from_bytes(part.tobytes(), "little") == expected
        assert len(part) == -(-place // 8)
    np.testing.assert_array_equal(gather(np.append(data, np.zeros(SLACK, np.uint8)), widths, offsets), values)


@given(st.sets(st.integers(0, 79)))
def test_ones_are_found_at_the_places_where_they_were_set(positions):
    data = set_bits(np.array(sorted(positions), dtype=np.int64), 10)
    assert int.from_bytes(data.tobytes(), "little") == sum(1 << position for position in positions)
    assert find_bits(data).tolist() == sorted(positions)


@given(st.integers(0, 2**52))
def test_a_number_gets_exactly_the_bits_that_it_needs(number):
    assert bit_length(np.array([number])).tolist() == [number.bit_length()]
