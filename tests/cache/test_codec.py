"""Token rows as bytes and back: exact ids, the stated bound whatever the numbers, and the bytes that LAYOUT.md says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.cache.codec import HEADER, decode, encode
from hf_distill.cache.rows import BOUND, FLOOR, TokenRows

log_probs = st.one_of(
    st.floats(-20, 0, width=32), st.floats(FLOOR, 0, width=32), st.sampled_from([0.0, -0.0, -BOUND, FLOOR, -np.inf])
)
unknown_or = st.one_of(log_probs, st.just(np.nan))
entropies = st.one_of(st.floats(0, 20, width=32), st.just(np.nan), st.just(0.0))


@st.composite
def examples(draw):
    """The positions of up to four examples of 0 to 5 positions, each with its own number of kept ids."""
    vocab_size = draw(st.sampled_from([1, 2, 3, 17, 4096, 151_936]))
    lengths = draw(st.lists(st.integers(0, 5), max_size=4))
    fixed = draw(st.one_of(st.none(), st.integers(0, min(vocab_size, 20))))
    n = sum(lengths)
    kept = [draw(st.integers(0, min(vocab_size, 20))) if fixed is None else fixed for _ in range(n)]
    k = max(kept, default=0) + draw(st.integers(0, 2))
    ids = np.full((n, k), vocab_size)
    values = np.full((n, k), -np.inf, dtype=np.float32)
    for row, count in enumerate(kept):
        slots = draw(st.permutations(range(k)))[:count]
        ids[row, slots] = draw(st.lists(st.integers(0, vocab_size - 1), min_size=count, max_size=count, unique=True))
        values[row, slots] = draw(st.lists(log_probs, min_size=count, max_size=count))
    columns = [
        np.array(draw(st.lists(values, min_size=n, max_size=n)), np.float32)
        for values in (unknown_or, unknown_or, entropies)
    ]
    return TokenRows(ids, values, *columns), lengths, vocab_size


def trimmed(rows, vocab_size):
    """Without columns that no position uses, each position sorted by id: as `decode` gives it."""
    order = np.argsort(rows.ids, axis=1)
    k = int((rows.ids < vocab_size).sum(axis=1).max(initial=0))
    ids, values = (np.take_along_axis(part, order, axis=1)[:, :k] for part in (rows.ids, rows.log_probs))
    return TokenRows(ids, values, rows.tail, rows.target, rows.entropy)


@settings(max_examples=300, deadline=None)
@given(examples(), st.integers(0, 99))
def test_numbers_come_back_within_the_bound_and_ids_exactly(examples, seed):
    rows, lengths, vocab_size = examples
    order = np.random.default_rng(seed).permutation(vocab_size)
    for ranks, back in ((None, None), (np.argsort(order), order)):
        found, found_lengths = decode(encode(rows, lengths, vocab_size, ranks), vocab_size, back)
        assert found_lengths.tolist() == lengths
        expected = trimmed(rows, vocab_size)
        found = trimmed(found, vocab_size)
        np.testing.assert_array_equal(found.ids, expected.ids)
        for name in ("log_probs", "tail", "target", "entropy"):
            ours, theirs = (np.asarray(getattr(part, name), np.float64) for part in (found, expected))
            finite = np.isfinite(theirs)
            np.testing.assert_array_equal(ours[~finite], theirs[~finite])
            assert np.abs(ours[finite] - theirs[finite]).max(initial=0) <= BOUND


@pytest.mark.parametrize("vocab_size", [2, 300, 151_936])
@pytest.mark.parametrize("logit", [0.0, 60.0, 2e5], ids=["flat", "peaked", "beyond float64"])
def test_whole_vocabularies_and_extreme_distributions_come_back_within_the_bound(vocab_size, logit, assert_same):
    logits = np.zeros((3, vocab_size))
    logits[:, vocab_size // 2] = logit
    values = logits - (logits.max(axis=1) + np.log(np.exp(logits - logits.max()).sum(axis=1)))[:, None]
    ids = np.tile(np.arange(vocab_size), (3, 1))
    rows = TokenRows(ids, values, [-np.inf] * 3, values[:, 0], [0.0, 1.0, math.log(vocab_size)])
    expected = np.where(rows.log_probs < FLOOR, -np.inf, rows.log_probs)
    target = np.where(rows.target < FLOOR, -np.inf, rows.target)
    found, _ = decode(encode(rows, [1, 2], vocab_size), vocab_size)
    assert_same(found, TokenRows(ids, expected, rows.tail, target, rows.entropy))


def test_masks_below_the_floor_come_back_as_zero_probability():
    masked = [-1e9, np.finfo(np.float32).min, -np.inf, np.nextafter(np.float32(FLOOR), np.float32(-np.inf)), FLOOR]
    rows = TokenRows([range(5)], [masked], [-1e9], [-1e9], [0])
    found, _ = decode(encode(rows, [1], 5), 5)
    np.testing.assert_array_equal(found.log_probs, [[-np.inf] * 4 + [FLOOR]])
    assert found.tail == found.target == -np.inf


def test_sampled_ids_with_their_frequencies_come_back_within_the_bound(assert_same):
    generator = np.random.default_rng(0)
    draws = [np.unique(generator.zipf(1.5, 50).clip(max=999), return_counts=True) for _ in range(40)]
    k = max(len(ids) for ids, _ in draws)
    ids, values = np.full((40, k), 1000), np.full((40, k), -np.inf)
    for row, (drawn, counts) in enumerate(draws):
        ids[row, : len(drawn)], values[row, : len(drawn)] = drawn, np.log(counts / 50)
    rows = TokenRows(ids, values, np.full(40, -np.inf), np.full(40, -2.0), np.full(40, np.nan))
    found, _ = decode(encode(rows, [40], 1000), 1000)
    assert_same(found, rows)


def test_examples_decoded_together_come_back_in_their_order_within_the_bound(make_rows, assert_same):
    many = [make_rows(n, k, seed=n, vocab_size=60, scale=n) for n, k in ((1, 3), (200, 60), (0, 2), (900, 40), (7, 1))]
    blobs = [encode(rows, [len(rows)], 60)[0] for rows in many]
    together, lengths = decode(blobs, 60)
    assert lengths.tolist() == [1, 200, 0, 900, 7]
    start = 0
    for rows in many:
        assert_same(trimmed(together[start : start + len(rows)], 60), trimmed(rows, 60))
        start += len(rows)
    assert encode(many[3], [400, 500], 60)[1] != encode(many[3], [900], 60)[0]
    assert len(decode([], 60)[0]) == 0


class Reader:
    """Decodes one example bit by bit, after LAYOUT.md alone."""

    def __init__(self, blob, vocab_size):
        self.bits, self.place, self.vocab_size = int.from_bytes(blob, "little"), 0, vocab_size

    def take(self, width):
        value = (self.bits >> self.place) & ((1 << width) - 1)
        self.place += width
        return value

    def zeros(self):
        count = 0
        while not self.take(1):
            count += 1
        return count

    def bucket(self, number, first_width, per_width):
        start = 0
        for index in range(number):
            start += 1 << self.width(index, first_width, per_width)
        return start, self.width(number, first_width, per_width)

    @staticmethod
    def width(index, first_width, per_width):
        return first_width + (index // per_width if per_width else 0)

    def rows(self):
        n, first_width, per_width = self.take(32), self.take(8), self.take(8)
        minimum, width, special = ([self.take(size) for _ in range(6)] for size in (32, 8, 8))
        sizes = [self.take(32) for _ in range(4)]
        columns = []
        for least, bits, codes in zip(minimum, width, special, strict=True):
            start = self.place
            found = [self.take(bits) for _ in range(n)]
            columns.append([(-math.inf, math.nan)[code] if code < codes else least + code - codes for code in found])
            self.place = start + -(-n * bits // 8) * 8
        kept, tail, target, entropy, lowest, rice = columns
        starts = [self.place + 8 * sum(sizes[:stream]) for stream in range(4)]
        found = []
        places, self.place = starts[1], starts[0]
        quotients, remainders = starts[2], starts[3]
        for position in range(n):
            number, ids, values = 0, [], []
            for _ in range(kept[position]):
                number += self.zeros()
                start, bits = self.bucket(number, first_width, per_width)
                buckets, self.place = self.place, places
                ids.append(start + self.take(bits))
                places, self.place = self.place, quotients
                quotient = self.zeros()
                quotients, self.place = self.place, remainders
                r, infinite = rice[position] // 2, rice[position] % 2
                x = (quotient << r) + self.take(r)
                remainders, self.place = self.place, buckets
                values.append(-math.inf if infinite and x == 0 else -(lowest[position] + infinite - x) / 16)
            found.append((ids, values, *(column[position] / 16 for column in (tail, target, entropy))))
        return found


@pytest.mark.parametrize(("n", "k", "vocab_size"), [(3, 4, 50), (20, 7, 4096), (5, 50, 50)])
def test_the_bytes_are_those_that_the_layout_says(n, k, vocab_size, make_rows):
    rows = make_rows(n, k, vocab_size)
    rows.log_probs[0, 1] = -np.inf
    (blob,) = encode(rows, [n], vocab_size)
    assert HEADER.itemsize == 58
    by_hand = Reader(blob, vocab_size).rows()
    found, _ = decode([blob], vocab_size)
    assert [position[0] for position in by_hand] == found.ids.tolist() == np.sort(rows.ids, axis=1).tolist()
    assert [position[1] for position in by_hand] == found.log_probs.tolist()
    for place, values in enumerate((found.tail, found.target, found.entropy), start=2):
        expected = [position[place] for position in by_hand]
        # Steps count downwards from 0, except of the entropy; -inf and NaN are what they are.
        signed = [value if place == 4 or value == -math.inf else -value for value in expected]
        np.testing.assert_array_equal(signed, values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ids": [[0, 5]]}, "Ids go from 0 to 5; expected 0 to 3, and 4 in unused slots"),
        ({"ids": [[-1, 2]]}, "Ids go from -1 to 2"),
        ({"ids": [[2, 2]]}, "an id twice"),
        ({"log_probs": [[-1, 0.5]]}, r"log_probs holds 0.5; expected numbers up to 0"),
        ({"log_probs": [[-1, np.nan]]}, "log_probs holds nan"),
        ({"tail": [1.0]}, "tail holds 1"),
        ({"target": [np.inf]}, "target holds inf"),
        ({"entropy": [-2.0]}, "entropy holds 2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_numbers_are_refused(changes, message):
    right = {"ids": [[0, 3]], "log_probs": [[-1, -2]], "tail": [-3], "target": [-1], "entropy": [0.5]}
    with pytest.raises(ValueError, match=message):
        encode(TokenRows(**right | changes), [1], 4)


def test_arrays_that_do_not_belong_together_are_refused(make_rows):
    with pytest.raises(ValueError, match=r"shapes .*expected \[n, k\]"):
        TokenRows([[0, 1]], [[-1.0]], [-1], [-1], [0])
    with pytest.raises(ValueError, match="add up to 3 positions, but 4 are given"):
        encode(make_rows(4), [1, 2], 50)
