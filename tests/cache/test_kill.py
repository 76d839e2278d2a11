"""A capture killed at any moment: what was finished stays, the rest is computed again, and nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from hf_distill.cache.store import CacheStore, verify
from hf_distill.cache.writer import CacheWriter

NUM_EXAMPLES = 60
CAPTURE = """
import hashlib, sys, time
import numpy as np
from hf_distill.cache.manifest import Manifest
from hf_distill.cache.rows import TokenRows
from hf_distill.cache.writer import CacheWriter
path, rank, session = sys.argv[1], int(sys.argv[2]), sys.argv[3]
manifest = Manifest({"teacher": "t1", "tokenizer": "k1"}, vocab_size=50, k=1)
writer = CacheWriter(path, manifest, rank=rank, session=session, shard_bytes=400)
print("ready", flush=True)
for i in range(rank, int(sys.argv[4]), 2):
    key = hashlib.blake2b(str(i).encode(), digest_size=16).digest()
    if writer.contains([key])[0]:
        continue
    n = 1 + i % 5
    writer.add([key], TokenRows(np.full((n, 1), i % 50), np.full((n, 1), -i / 16), [-i] * n, [-i] * n, [i] * n), [n])
    print("computed", i, flush=True)
    time.sleep(0.001)
writer.close()
print("done", flush=True)
"""


CALLS = ("fsync", "replace", "write", "ftruncate", "unlink")


def capture_until(path, manifest, rows, keys, number, after):
    """In a child process: writes two shards, and is killed before or after its call `number` that changes files."""
    count = 0

    def deadly(call):
        def run(*arguments, **options):
            nonlocal count
            count += 1
            if count == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*arguments, **options)
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return run

    for name in CALLS:
        setattr(os, name, deadly(getattr(os, name)))
    with CacheWriter(path, manifest) as writer:
        for part in (0, 1):
            writer.add(keys[2 * part :][:2], rows[4 * part :][:4], [1, 3])
            writer.flush()
    os._exit(0)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_between_any_two_file_calls_leaves_a_store_that_goes_on(after, tmp_path, manifest, make_rows, make_key):
    rows, keys = make_rows(8), [make_key(i) for i in range(4)]
    stored = []
    for number in range(1, 100):
        path = tmp_path / str(number)
        if (child := os.fork()) == 0:
            capture_until(path, manifest, rows, keys, number, after)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        with CacheWriter(path, manifest) as writer:
            stored.append(int(writer.contains(keys).sum()))
            assert writer.add(keys, rows, [1, 3, 1, 3]) == 4 - stored[-1]
        store = CacheStore(path)
        assert sum(entry["examples"] for entry in store.shards) == len(store) == 4
        assert len(store.read(keys).rows) == 8
        assert not [problem for _, problem in verify(path) if problem]
        left = {file.name for file in path.iterdir()} - {entry["shard"] for entry in store.shards}
        assert left == {"manifest.json", "writers.lock", "journal-00000.jsonl"}
    assert stored == sorted(stored)
    assert set(stored) == {0, 2, 4}
    assert len(stored) > 10


def start(path, rank, session):
    command = [sys.executable, "-c", CAPTURE, str(path), str(rank), session, str(NUM_EXAMPLES)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("seed", range(2))
def test_a_kill_keeps_every_finished_shard_and_leaves_no_example_twice(seed, tmp_path, make_key):
    chance = random.Random(seed)
    finished: set[bytes] = set()
    for attempt in range(5):
        writers = [start(tmp_path, rank, f"attempt {attempt}") for rank in (0, 1)]
        assert [writer.stdout.readline() for writer in writers] == ["ready\n"] * 2
        time.sleep(chance.uniform(0, 0.06))
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            time.sleep(chance.uniform(0, 0.01))
        lines = [writer.communicate()[0].splitlines() for writer in writers]
        store = CacheStore(tmp_path)
        keys = set(store.keys())
        assert finished <= keys
        # Not computed again what was there when the capture began.
        computed = {make_key(int(line.split()[1])) for part in lines for line in part if line.startswith("computed")}
        assert not computed & finished
        assert sum(entry["examples"] for entry in store.shards) == len(keys)
        assert all(problem is None for _, problem in verify(tmp_path))
        finished = keys
    for writer in [start(tmp_path, rank, "last") for rank in (0, 1)]:
        assert writer.communicate()[0].endswith("done\n")
    store = CacheStore(tmp_path)
    found = store.read([make_key(i) for i in range(NUM_EXAMPLES)])
    expected = np.repeat(np.arange(NUM_EXAMPLES), found.lengths)
    assert found.lengths.tolist() == [1 + i % 5 for i in range(NUM_EXAMPLES)]
    np.testing.assert_array_equal(found.rows.tail, -expected)
    assert sum(entry["examples"] for entry in store.shards) == NUM_EXAMPLES
    named = {entry["shard"] for entry in store.shards}
    assert {file.name for file in tmp_path.iterdir() if "shard" in file.name} == named


@pytest.mark.parametrize("rest", [0, 1, 40, -1], ids=["nothing", "a byte", "40 bytes", "all but the end"])
def test_an_unfinished_line_of_the_journal_counts_for_no_shard_and_spoils_no_later_line(
    rest, store_path, manifest, make_rows, make_key
):
    journal = store_path / "journal-00000.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(lines[0] + lines[1][:rest])
    assert len(CacheStore(store_path)) == 3  # example 3 was in the second shard
    with CacheWriter(store_path, manifest) as writer:
        assert not list(store_path.glob("shard-00000-00001*"))
        assert writer.add([make_key(3)], make_rows(5, seed=1), [5]) == 1
    assert len(CacheStore(store_path)) == 4
    assert len(journal.read_bytes().splitlines()) == 2


def test_a_new_writer_removes_what_a_killed_capture_left_and_nothing_else(store_path, manifest):
    left = ["shard-00000-00002.safetensors", "shard-00004-00000.safetensors.part", "manifest.json.part"]
    for name in left:
        (store_path / name).write_bytes(b"unfinished")
    (store_path / "notes.txt").write_text("the user's own")
    before = {file.name for file in store_path.iterdir()}
    CacheStore(store_path)  # reading removes nothing
    assert {file.name for file in store_path.iterdir()} == before
    CacheWriter(store_path, manifest).close()
    assert before - {file.name for file in store_path.iterdir()} == set(left)


def test_a_process_that_joins_leaves_alone_what_another_is_writing(tmp_path, manifest):
    with CacheWriter(tmp_path, manifest, session="s"):
        busy = tmp_path / "shard-00000-00000.safetensors.part"
        busy.write_bytes(b"half")
        CacheWriter(tmp_path, manifest, rank=1, session="s").close()
        assert busy.exists()
