"""Dense arrays, and shards as other programs see them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open

from hf_distill.cache.manifest import Manifest
from hf_distill.cache.shards import from_stored, to_stored
from hf_distill.cache.store import CacheStore
from hf_distill.cache.writer import CacheWriter

floats = st.floats(width=32, allow_nan=True, allow_infinity=True)


@given(arrays.arrays(np.float32, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4), elements=floats))
def test_bfloat16_is_rounded_as_torch_rounds_it(values):
    found = from_stored(to_stored(values, "bfloat16", "states"), "bfloat16")
    expected = torch.from_numpy(values).to(torch.bfloat16).float().numpy()
    np.testing.assert_array_equal(found, expected)
    assert found.shape == values.shape


@pytest.mark.parametrize(("value", "dtype"), [(7e4, "float16"), (1e39, "float32")])
def test_a_number_that_does_not_fit_is_refused_and_an_infinite_one_is_kept(value, dtype):
    with pytest.raises(
        ValueError, match=f"'logits' reaches {value:.4g}, which {dtype} cannot hold".replace("+", r"\+")
    ):
        to_stored(np.array([1.0, -value]), dtype, "logits")
    assert np.isinf(to_stored(np.array([-np.inf]), dtype, "logits")).all()


@pytest.fixture
def dense(tmp_path, make_key):
    """A store of arrays alone: whole sequences, a vector and one number for each example."""
    generator = np.random.default_rng(0)
    examples = {
        "states": [generator.normal(size=(n, 3)).astype(np.float32) for n in (2, 0, 5)],
        "logits": [generator.normal(size=4).astype(np.float16) for _ in range(3)],
        "score": [np.float32(value) for value in (0.5, -1.0, 3.0)],
    }
    dtypes = {"states": "bfloat16", "logits": "float16", "score": "float32"}
    keys = [make_key(i) for i in range(3)]
    with CacheWriter(tmp_path / "dense", Manifest({"teacher": "t"}, arrays=dtypes)) as writer:
        assert writer.add(keys, arrays=examples) == 3
    return tmp_path / "dense", keys, examples


def test_arrays_come_back_with_the_values_and_shapes_that_were_stored(dense):
    path, keys, examples = dense
    found = CacheStore(path).read([keys[2], keys[0], keys[2], keys[1]])
    assert found.rows is None
    assert found.lengths.tolist() == [0] * 4
    for place, i in enumerate([2, 0, 2, 1]):
        np.testing.assert_array_equal(found.arrays["logits"][place], examples["logits"][i])
        assert found.arrays["logits"][place].dtype == np.float16
        np.testing.assert_array_equal(found.arrays["score"][place], examples["score"][i])
        assert found.arrays["score"][place].shape == ()
        expected = torch.from_numpy(examples["states"][i]).bfloat16().float().numpy()
        np.testing.assert_array_equal(found.arrays["states"][place], expected)


def test_writing_to_what_was_read_leaves_the_store_unchanged(dense):
    path, keys, _ = dense
    store = CacheStore(path)
    store.read(keys).arrays["logits"][0][:] = 0  # a copy of the caller's own
    assert store.read(keys).arrays["logits"][0].any()


def test_other_programs_can_open_a_shard(dense):
    path, keys, examples = dense
    with safe_open(path / "shard-00000-00000.safetensors", framework="pt") as file:
        assert bytes(file.get_tensor("keys").numpy()) == b"".join(keys)
        states = torch.cat([torch.from_numpy(each) for each in examples["states"]]).bfloat16()
        torch.testing.assert_close(file.get_tensor("arrays.states"), states.flatten(), rtol=0, atol=0)
        assert file.get_tensor("array_shapes.states").tolist() == [[2, 3], [0, 3], [5, 3]]
        assert file.get_tensor("row_offsets").tolist() == [0, 0, 0, 0]
