"""Token rows and stores that the tests of the cache share."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from hf_distill.cache.manifest import Manifest
from hf_distill.cache.rows import TokenRows
from hf_distill.cache.writer import CacheWriter


@pytest.fixture
def make_rows():
    """n positions that keep the k likeliest of a random distribution over V ids."""

    def make(n=10, k=4, vocab_size=50, seed=0, scale=3.0):
        generator = np.random.default_rng(seed)
        logits = generator.normal(scale=scale, size=(n, vocab_size))
        logits -= logits.max(axis=1, keepdims=True)
        log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        ids = np.argsort(-log_probs, axis=1)[:, :k]
        kept = np.take_along_axis(log_probs, ids, axis=1)
        with np.errstate(divide="ignore"):
            tail = np.log(np.maximum(0, 1 - np.exp(kept).sum(axis=1)))
        target = log_probs[:, 0].copy()
        target[-1:] = np.nan
        return TokenRows(ids, kept, tail, target, -(np.exp(log_probs) * log_probs).sum(axis=1))

    return make


@pytest.fixture
def make_key():
    """A key made of a number."""

    def make(number):
        return hashlib.blake2b(str(number).encode(), digest_size=16).digest()

    return make


@pytest.fixture
def manifest():
    return Manifest({"teacher": "t1", "tokenizer": "k1"}, vocab_size=50, k=4)


@pytest.fixture
def store_path(tmp_path, manifest, make_rows, make_key):
    """A store of two shards: examples 0 to 2 with 4, 6 and 0 positions; 3 with 5."""
    path = tmp_path / "store"
    with CacheWriter(path, manifest) as writer:
        writer.add([make_key(i) for i in range(3)], make_rows(10), [4, 6, 0])
        writer.flush()
        writer.add([make_key(3)], make_rows(5, seed=1), [5])
    return path


@pytest.fixture
def assert_same():
    """What comes back holds the same ids, and numbers within the bound."""

    def check(found, expected, bound=1 / 32):
        order = np.argsort(found.ids, axis=1), np.argsort(expected.ids, axis=1)
        ids = [np.take_along_axis(rows.ids, o, axis=1) for rows, o in zip((found, expected), order, strict=True)]
        values = [np.take_along_axis(rows.log_probs, o, 1) for rows, o in zip((found, expected), order, strict=True)]
        np.testing.assert_array_equal(ids[0], ids[1])
        pairs = [values] + [[getattr(rows, name) for rows in (found, expected)] for name in NAMES]
        for ours, theirs in pairs:
            ours, theirs = ours.astype(np.float64), theirs.astype(np.float64)
            finite = np.isfinite(theirs)
            np.testing.assert_array_equal(ours[~finite], theirs[~finite])  # -inf and NaN come back as they are
            assert np.abs(ours[finite] - theirs[finite]).max(initial=0) <= bound

    return check


NAMES = ("tail", "target", "entropy")
