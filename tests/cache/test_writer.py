"""Writing a store: no example twice, one capture at a time, and a disk that becomes full."""

from __future__ import annotations

import errno
import gc
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from hf_distill.cache import journal as journal_module
from hf_distill.cache.errors import StoreInUse
from hf_distill.cache.manifest import Manifest
from hf_distill.cache.rows import TokenRows
from hf_distill.cache.store import CacheStore, verify
from hf_distill.cache.writer import CacheWriter


def test_an_example_is_stored_once(store_path, manifest, make_rows, make_key):
    with CacheWriter(store_path, manifest) as writer:
        keys = [make_key(i) for i in (0, 8, 3, 8, 9)]
        assert writer.contains(keys).tolist() == [True, False, True, False, False]
        assert writer.add(keys, make_rows(9, seed=5), [2, 1, 1, 1, 4]) == 2
        assert writer.add(keys, make_rows(9, seed=5), [2, 1, 1, 1, 4]) == 0  # they still wait
        assert writer.contains(keys).all()
    store = CacheStore(store_path)
    assert [entry["examples"] for entry in store.shards] == [3, 1, 2]
    assert store.read([make_key(8)]).lengths.tolist() == [1]
    np.testing.assert_array_equal(
        np.sort(store.read([make_key(9)]).rows.ids, axis=1), np.sort(make_rows(9, seed=5).ids[5:], axis=1)
    )


def test_an_example_that_waits_is_read_as_it_is_once_stored(store_path, manifest, make_rows, make_key, assert_same):
    with CacheWriter(store_path, manifest) as writer:
        writer.add([make_key(8)], make_rows(3, seed=8), [3])
        found = writer.read([make_key(8), make_key(3)])
        assert found.lengths.tolist() == [3, 5]
        assert_same(found.rows[:3], make_rows(3, seed=8))
        writer.flush()
        assert_same(writer.read([make_key(8), make_key(3)]).rows, found.rows, bound=0)


def test_shards_are_cut_by_size_and_by_time(tmp_path, manifest, make_rows, make_key):
    with CacheWriter(tmp_path, manifest, shard_bytes=1000, shard_seconds=0.2) as writer:
        for i in range(40):
            writer.add([make_key(i)], make_rows(4), [4])
        writer.flush()
        by_size = len(CacheStore(tmp_path).shards)
        assert 4 <= by_size <= 10
        writer.add([make_key(100)], make_rows(4), [4])
        time.sleep(0.25)
        writer.add([make_key(101)], make_rows(4), [4])
        assert len(CacheStore(tmp_path).shards) == by_size + 1
    assert len(CacheStore(tmp_path)) == 42


def test_an_interrupt_stores_what_waits(tmp_path, manifest, make_rows, make_key):
    def interrupted():
        with CacheWriter(tmp_path, manifest) as writer:
            writer.add([make_key(0)], make_rows(4), [4])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert make_key(0) in CacheStore(tmp_path)


def test_processes_of_one_capture_share_a_store(tmp_path, manifest, make_rows, make_key):
    with (
        CacheWriter(tmp_path, manifest, rank=0, session="s") as first,
        CacheWriter(tmp_path, manifest, rank=1, session="s") as second,
    ):
        assert first.add([make_key(0), make_key(1)], make_rows(2), [1, 1]) == 2
        first.flush()
        # A sampler fills up the last batch of a rank with examples of another one.
        assert second.add([make_key(1), make_key(2)], make_rows(2), [1, 1]) == 2
        with pytest.raises(StoreInUse, match="as number 1"):
            CacheWriter(tmp_path, manifest, rank=1, session="s")
    store = CacheStore(tmp_path)
    assert [(entry["shard"][:11], entry["examples"]) for entry in store.shards] == [
        ("shard-00000", 2),
        ("shard-00001", 1),
    ]
    assert len(store) == 3


def test_only_one_capture_at_a_time_writes_into_a_store(tmp_path, manifest, make_rows, make_key):
    with CacheWriter(tmp_path, manifest, session="one"):
        for session in ("two", None):
            with pytest.raises(StoreInUse, match=r"Another capture is writing into .* \(session one\)"):
                CacheWriter(tmp_path, manifest, rank=1, session=session)
    with CacheWriter(tmp_path, manifest, session="two") as writer:
        writer.add([make_key(0)], make_rows(1), [1])
    writer = CacheWriter(tmp_path, manifest)
    del writer  # never closed
    gc.collect()
    CacheWriter(tmp_path, manifest).close()


HOLD = """
import os, sys, time
from hf_distill.cache.manifest import Manifest
from hf_distill.cache.writer import CacheWriter
writer = CacheWriter(sys.argv[1], Manifest({"teacher": "t1", "tokenizer": "k1"}, vocab_size=50, k=4))
if os.fork() == 0:  # a data loader's worker, which may outlive its parent
    print(os.getpid(), flush=True)
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_the_lock_of_a_killed_writer_is_free_while_its_workers_live_on(tmp_path, manifest):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(StoreInUse):
            CacheWriter(tmp_path, manifest)
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # it lives
        CacheWriter(tmp_path, manifest).close()
    finally:
        os.kill(worker, 9)
        holder.kill()
        holder.stdout.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"fingerprints": {"teacher": "t2", "tokenizer": "k1"}},
            "another teacher: its fingerprint there is t1, here it",
        ),
        ({"fingerprints": {"teacher": "t1"}}, "begun with fingerprints .*k1.*; this capture has"),
        ({"vocab_size": 51}, "begun with vocab_size 50; this capture has 51"),
        ({"k": 5}, "begun with k 4; this capture has 5"),
        ({"arrays": {"logits": "float16"}}, "begun with arrays"),
        ({"settings": {"temperature": 2}}, "begun with settings"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_capture_with_another_manifest_than_the_store_is_refused(other, message, store_path):
    right = {"fingerprints": {"teacher": "t1", "tokenizer": "k1"}, "vocab_size": 50, "k": 4}
    with pytest.raises(ValueError, match=message):
        CacheWriter(store_path, Manifest(**right | other))
    CacheWriter(store_path, Manifest(**right)).close()  # and the lock is free


def test_rows_and_arrays_that_do_not_fit_the_manifest_are_refused(tmp_path, make_rows, make_key):
    keys, rows = [make_key(0), make_key(1)], make_rows(3)
    with CacheWriter(tmp_path, Manifest({}, vocab_size=50, k=4, arrays={"logits": "float32"})) as writer:
        arrays = {"logits": [np.zeros(3), np.zeros(2)]}
        for wrong, message in (
            ((keys, None, None, arrays), "vocab_size 50; give rows and lengths"),
            ((keys, rows, None, arrays), "lengths None"),
            ((keys, rows, [1, 1], arrays), r"2 keys, 2 lengths that add up to 2, and 3 positions"),
            ((keys, rows, [3], arrays), r"2 keys, 1 lengths"),
            ((keys, rows, [1, 2]), r"Got arrays \[\]; expected \['logits'\]"),
            ((keys, rows, [1, 2], {"logits": [np.zeros(3)]}), "one of each for every key"),
            ((keys, make_rows(3, k=5), [1, 2], arrays), "keep up to 5 ids; .* has k 4"),
            ((keys, rows, [1, 2], {"logits": [np.zeros(3), np.zeros((1, 2))]}), r"\(1, 2\); expected 1 dimensions"),
            (([b"short", make_key(1)], rows, [1, 2], arrays), "16 bytes"),
        ):
            with pytest.raises(ValueError, match=message):
                writer.add(*wrong)
        assert writer.add(keys, rows, [1, 2], arrays) == 2


def test_a_store_without_its_manifest_is_refused(store_path, manifest):
    (store_path / "manifest.json").unlink()
    with pytest.raises(ValueError, match="journals of a teacher cache but no manifest"):
        CacheWriter(store_path, manifest)


FILL = """
import resource, sys
import numpy as np
from hf_distill.cache.manifest import Manifest
from hf_distill.cache.writer import CacheWriter
writer = CacheWriter(sys.argv[1], Manifest({}, arrays={"states": "float32"}))
writer.add([bytes(16)], arrays={"states": [np.zeros(10)]})
writer.flush()
writer.add([b"a" * 16], arrays={"states": [np.zeros(1_000_000)]})
limits = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
try:
    writer.flush()
except OSError as error:
    print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if len(sys.argv) > 2:
        writer.close()  # there is space again
"""


@pytest.mark.parametrize("space", [True, False], ids=["space again", "given up"])
def test_a_full_disk_leaves_finished_shards_intact_and_says_what_was_not_stored(tmp_path, space):
    command = [sys.executable, "-c", FILL, str(tmp_path), *(["again"] if space else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "No space for a shard of 4,000,0" in done.stdout
    assert "Finished shards are intact; 1 examples are not stored. Make space and start the same capture" in done.stdout
    store = CacheStore(tmp_path)
    assert (bytes(16) in store, b"a" * 16 in store) == (True, space)
    assert [problem for _, problem in verify(tmp_path)] == [None] * (1 + space)
    assert not list(tmp_path.glob("*.part"))


def test_a_disk_that_is_full_at_the_journal_leaves_the_journal_unchanged(
    store_path, manifest, make_rows, make_key, monkeypatch
):
    writer = CacheWriter(store_path, manifest)
    writer.add([make_key(7)], make_rows(1), [1])
    before = (store_path / "journal-00000.jsonl").read_bytes()
    real, calls = os.write, []

    def full(descriptor, data):
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:10])

    with monkeypatch.context() as patch:
        patch.setattr(journal_module.os, "write", full)
        with pytest.raises(OSError, match="No space for a shard"):
            writer.flush()
    assert (store_path / "journal-00000.jsonl").read_bytes() == before
    assert len(list(store_path.glob("shard-*"))) == 2
    writer.close()
    assert make_key(7) in CacheStore(store_path)


def test_new_examples_keep_their_rows_beside_examples_that_are_already_stored(store_path, manifest, make_key):
    """Positions are told apart by their ids here."""
    rows = TokenRows(np.repeat(np.arange(6), 1)[:, None], np.zeros((6, 1)), [-np.inf] * 6, [-1] * 6, [0] * 6)
    with CacheWriter(store_path, manifest) as writer:
        writer.add([make_key(i) for i in (20, 0, 21, 1, 22)], rows, [1, 2, 0, 1, 2])
    found = CacheStore(store_path).read([make_key(i) for i in (22, 20, 21)])
    assert found.lengths.tolist() == [2, 1, 0]
    assert found.rows.ids[:, 0].tolist() == [4, 5, 0]
