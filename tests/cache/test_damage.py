"""Bytes that are not those that were written: noticed, and the file named."""

from __future__ import annotations

import shutil

import pytest

from hf_distill.cache.errors import DamagedStore, StoreInUse
from hf_distill.cache.manifest import Manifest
from hf_distill.cache.repair import discard
from hf_distill.cache.store import CacheStore, verify
from hf_distill.cache.writer import CacheWriter

SHARD = "shard-00000-00000.safetensors"


def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


@pytest.fixture
def keys(make_key):
    return [make_key(i) for i in range(4)]


def test_a_flipped_bit_in_a_shard_is_noticed_and_the_shard_is_named(store_path, tmp_path, keys):
    size = (store_path / SHARD).stat().st_size
    index = CacheStore(store_path).shards[0]["index_bytes"]
    # Some places in the index; all in the rows.
    for place in [*range(0, index, 37), *range(index, size)]:
        damaged = tmp_path / f"damaged-{place}"
        shutil.copytree(store_path, damaged)
        flip(damaged / SHARD, place, bit=place % 8)
        assert {name: problem is None for name, problem in verify(damaged)} == {
            SHARD: False,
            "shard-00000-00001.safetensors": True,
        }
        with pytest.raises(DamagedStore, match=SHARD):
            CacheStore(damaged).read(keys)
        if place >= index:  # the other shard is as good as before
            assert len(CacheStore(damaged).read(keys[3:]).rows) == 5
        shutil.rmtree(damaged)


def test_a_truncated_or_missing_shard_is_refused_by_name(store_path):
    file = store_path / SHARD
    whole = file.read_bytes()
    for size in (len(whole) - 1, 10, 0):
        file.write_bytes(whole[:size])
        with pytest.raises(DamagedStore, match=rf"{SHARD} has {size:,} bytes; {len(whole):,} were written"):
            CacheStore(store_path)
        assert f"has {size:,} bytes" in dict(verify(store_path))[SHARD]
    file.unlink()
    with pytest.raises(DamagedStore, match=rf"{SHARD} is missing"):
        CacheStore(store_path)
    assert "cannot be read: No such file" in dict(verify(store_path))[SHARD]


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b'{"shard": \n', b"[1]\n"])
def test_a_damaged_journal_is_an_error_that_names_its_line(line, store_path):
    journal = store_path / "journal-00000.jsonl"
    journal.write_bytes(line + journal.read_bytes())
    with pytest.raises(DamagedStore, match=r"Line 1 of the journal .*journal-00000\.jsonl"):
        CacheStore(store_path)


def test_a_damaged_manifest_is_refused(store_path):
    (store_path / "manifest.json").write_text("{")
    with pytest.raises(DamagedStore, match=r"manifest.json cannot be read"):
        CacheStore(store_path)


def test_a_damaged_or_missing_order_of_the_vocabulary_is_refused(tmp_path, make_rows, make_key):
    with CacheWriter(tmp_path, Manifest({}, vocab_size=50), order=list(range(50))[::-1]) as writer:
        writer.add([make_key(0)], make_rows(4), [4])
    flip(tmp_path / "order.safetensors", -1)
    with pytest.raises(DamagedStore, match=r"order.safetensors is not what was written"):
        CacheStore(tmp_path).read([make_key(0)])
    (tmp_path / "order.safetensors").unlink()
    with pytest.raises(DamagedStore, match=r"order.safetensors is missing"):
        list(verify(tmp_path))


def test_a_damaged_shard_can_be_discarded_and_its_examples_written_again(store_path, manifest, make_rows, keys):
    flip(store_path / SHARD, -1)
    with CacheWriter(store_path, manifest):
        with pytest.raises(StoreInUse):
            discard(store_path, SHARD)
    with pytest.raises(ValueError, match=rf"no shard 'shard'; it has {SHARD}, shard-00000-00001"):
        discard(store_path, "shard")
    discard(store_path, SHARD)
    assert list(CacheStore(store_path).keys()) == keys[3:]
    with CacheWriter(store_path, manifest) as writer:
        assert writer.add(keys, make_rows(15), [4, 6, 0, 5]) == 3
    store = CacheStore(store_path)
    assert len(store.read(keys).rows) == 15
    assert [entry["shard"] for entry in store.shards] == [f"shard-00000-{number:05d}.safetensors" for number in (1, 2)]
