"""Reading a store: by key, without the rest, in other processes; and refusing what is not meant."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import numpy as np
import pytest

from hf_distill.cache import shards as shards_module
from hf_distill.cache.errors import MissingExample
from hf_distill.cache.manifest import Manifest
from hf_distill.cache.ordering import by_frequency
from hf_distill.cache.rows import TokenRows
from hf_distill.cache.store import CacheStore
from hf_distill.cache.writer import CacheWriter


def test_examples_are_found_under_their_keys_in_the_order_asked_for(store_path, make_rows, make_key, assert_same):
    store = CacheStore(store_path)
    assert sorted(store.keys()) == sorted(make_key(i) for i in range(4))
    assert (len(store), store.num_tokens) == (4, 15)
    assert [entry["tokens"] for entry in store.shards] == [10, 5]
    assert store.num_bytes == sum(file.stat().st_size for file in store_path.iterdir())
    assert make_key(3) in store
    assert make_key(4) not in store
    found = store.read([make_key(i) for i in (3, 2, 1, 3, 0)])
    assert found.lengths.tolist() == [5, 0, 6, 5, 4]
    rows, other = make_rows(10), make_rows(5, seed=1)
    for part, expected in ((slice(0, 5), other), (slice(5, 11), rows[4:10]), (slice(11, 16), other)):
        assert_same(found.rows[part], expected)
    assert_same(found.rows[16:], rows[:4])


def test_a_missing_example_is_named(store_path, make_key):
    with pytest.raises(MissingExample, match=rf"{make_key(9).hex()} \(number 1\)") as caught:
        CacheStore(store_path).read([make_key(0), make_key(9)])
    assert (caught.value.index, caught.value.key) == (1, make_key(9))
    with pytest.raises(ValueError, match="A key has 16 bytes; got one of 3"):
        CacheStore(store_path).read([b"abc"])


@pytest.mark.parametrize("key", [bytes(16), bytes(15) + b"a", b"a" + bytes(15), b"\xff" * 16], ids=bytes.hex)
def test_keys_with_zeros_in_them_are_told_apart(key, tmp_path, manifest, make_rows, make_key):
    with CacheWriter(tmp_path, manifest) as writer:
        writer.add([key, make_key(0)], make_rows(2), [1, 1])
    store = CacheStore(tmp_path)
    assert key in store
    assert set(store.keys()) == {key, make_key(0)}
    for other in (bytes(16), bytes(15) + b"a", b"a" + bytes(15), b"\xff" * 16):
        assert (other in store) == (other == key)


def test_reading_one_example_leaves_the_rest_of_its_shard_unread(store_path, make_key, monkeypatch):
    store = CacheStore(store_path)
    read = []
    monkeypatch.setattr(shards_module, "checksum", lambda rows, arrays: read.append(len(rows)) or 0)
    with pytest.raises(RuntimeError):  # the checksum is wrong now
        store.read([make_key(1)])
    assert len(read) == 1
    assert read[0] < (store_path / "shard-00000-00000.safetensors").stat().st_size / 2


def found_by(store, key, results):
    results.put(store.read([key]).rows.ids)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_store_works_in_a_worker_process(method, store_path, make_key):
    store = CacheStore(store_path)
    expected = store.read([make_key(0)]).rows.ids
    context = multiprocessing.get_context(method)
    results = context.Queue()
    process = context.Process(target=found_by, args=(store, make_key(0), results))
    process.start()
    np.testing.assert_array_equal(results.get(timeout=60), expected)
    process.join()
    assert len(pickle.dumps(store)) < 1000


def test_shards_written_after_opening_are_seen_only_after_refresh(store_path, manifest, make_rows, make_key):
    store = CacheStore(store_path)
    with CacheWriter(store_path, manifest) as writer:
        writer.add([make_key(7)], make_rows(1), [1])
    assert make_key(7) not in store
    store.refresh()
    assert make_key(7) in store
    assert len(store.read([make_key(0), make_key(7)]).rows) == 5


def test_a_store_with_other_fingerprints_is_refused(store_path):
    CacheStore(store_path, fingerprints={"teacher": "t1"})
    with pytest.raises(ValueError, match="made with another tokenizer: its fingerprint there is k1, here it is k2"):
        CacheStore(store_path, fingerprints={"teacher": "t1", "tokenizer": "k2"})
    with pytest.raises(ValueError, match="another template: its fingerprint there is None, here it is x"):
        CacheStore(store_path, fingerprints={"template": "x"})


@pytest.mark.parametrize(("field", "value"), [("version", 2), ("format", "other"), ("bound", 0.5)])
def test_an_unknown_format_is_refused(field, value, store_path):
    file = store_path / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {field: value}))
    with pytest.raises(ValueError, match=rf"{value!r}.*this version of hf-distill reads .*version 1, bound 0.03125"):
        CacheStore(store_path)


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a teacher cache"):
        CacheStore(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "token rows .*dense arrays"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"vocab_size": 2**24}, "vocab_size is 16777216"),
        ({"arrays": {"states": "int8"}}, "'states' is to be stored as 'int8'; expected one of float16, bfloat16"),
    ],
)
def test_a_manifest_of_what_no_store_can_hold_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Manifest({}, **options)


def test_an_order_of_the_vocabulary_keeps_ids_as_they_are_and_saves_bytes(tmp_path, make_rows, make_key, assert_same):
    rows = make_rows(400, k=8, vocab_size=4096)
    frequent = np.random.default_rng(1).permutation(4096)  # as ids come: without a pattern
    rows.ids = frequent[np.sort(np.random.default_rng(2).zipf(1.3, rows.ids.shape) % 512, axis=1) * 8 + np.arange(8)]
    counts = np.bincount(rows.ids.ravel(), minlength=4096)
    sizes = []
    for name, order in (("own", None), ("frequent", by_frequency(counts))):
        with CacheWriter(tmp_path / name, Manifest({}, vocab_size=4096), order=order) as writer:
            writer.add([make_key(0)], rows, [400])
        store = CacheStore(tmp_path / name)
        assert_same(store.read([make_key(0)]).rows, rows)
        sizes.append(store.shards[0]["bytes"])
    assert sizes[1] < 0.9 * sizes[0]
    with CacheWriter(tmp_path / "frequent", Manifest({}, vocab_size=4096), order=np.arange(4096)) as writer:
        writer.add([make_key(1)], rows[:9], [9])  # by the order that the store began with
    assert_same(CacheStore(tmp_path / "frequent").read([make_key(1), make_key(0)]).rows[:9], rows[:9])
    with pytest.raises(ValueError, match=r"The order has 9 ids; expected each id of the vocabulary once, .* 10"):
        CacheWriter(tmp_path / "wrong", Manifest({}, vocab_size=10), order=np.arange(9))


def test_a_token_takes_at_most_96_bytes(tmp_path, make_key):
    """V = 151,936, k = 32 and 128 tokens a sequence, ids without any pattern, everything on the disk counted."""
    generator = np.random.default_rng(0)
    logits = -1.5 * np.log(np.arange(1, 151_937)) + generator.normal(size=(64, 151_936))
    logits -= np.log(np.exp(logits).sum(axis=1, keepdims=True))
    values = np.tile(-np.sort(-logits, axis=1)[:, :32], (100, 1))
    ids = np.stack([generator.choice(151_936, 32, replace=False) for _ in values])
    rows = TokenRows(
        ids,
        values,
        np.log1p(-np.exp(values).sum(axis=1)),
        generator.uniform(-20, 0, 6400),
        generator.uniform(0, 9, 6400),
    )
    with CacheWriter(tmp_path, Manifest({"teacher": "x" * 64}, vocab_size=151_936, k=32)) as writer:
        writer.add([make_key(i) for i in range(50)], rows, [128] * 50)
    store = CacheStore(tmp_path)
    assert 75 < store.num_bytes / store.num_tokens <= 96
