"""How vocabularies are cut for coding sets of ids."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_distill.cache.buckets import Buckets, choose, cut, encode_ids


@pytest.mark.parametrize("vocab_size", [1, 2, 3, 255, 256, 4096, 151_936, 2**24 - 1])
@pytest.mark.parametrize("buckets", [(0, 1), (0, 255), (3, 2), (5, 0), (24, 0), (24, 7)])
def test_every_id_lies_in_exactly_one_bucket(vocab_size, buckets):
    starts, widths = cut(Buckets(*buckets), vocab_size)
    assert starts[0] == 0
    np.testing.assert_array_equal(starts[1:], (starts + (1 << widths))[:-1])
    assert starts[-1] < vocab_size <= starts[-1] + (1 << widths[-1])


def coded_bytes(ids, vocab_size):
    n, k = ids.shape
    flat, kept = np.sort(ids, axis=1).ravel(), np.full(n, k)
    streams = encode_ids(flat, kept, np.array([0, n]), choose(flat, kept, vocab_size), vocab_size)
    return sum(len(stream) for stream, _ in streams) / n


@pytest.mark.parametrize(("k", "vocab_size"), [(8, 4096), (32, 151_936), (128, 151_936), (128, 1000)])
def test_ids_without_a_pattern_take_no_more_bytes_than_elias_fano_needs(k, vocab_size):
    generator = np.random.default_rng(0)
    ids = np.stack([generator.choice(vocab_size, k, replace=False) for _ in range(200)])
    least = math.log2(math.comb(vocab_size, k))  # no code of sets takes less on average
    elias_fano = k * (2 + math.ceil(math.log2(vocab_size / k)))
    assert least / 8 <= coded_bytes(ids, vocab_size) <= elias_fano / 8


def test_ids_that_crowd_at_the_start_of_the_vocabulary_cost_less_than_others():
    generator = np.random.default_rng(0)
    frequency = 1 / (10 + np.arange(151_936))
    ids = [generator.choice(151_936, 32, replace=False, p=frequency / frequency.sum()) for _ in range(200)]
    assert coded_bytes(np.stack(ids), 151_936) < 0.8 * math.log2(math.comb(151_936, 32)) / 8
