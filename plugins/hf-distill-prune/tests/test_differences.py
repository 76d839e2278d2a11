"""Sparse differences against NumPy: which parameters, how many, and what they add up to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_prune.differences import added, difference, largest_changes, load_difference, save_difference


def tensors(seed):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(3, 4, generator=generator), "b": torch.randn(5, generator=generator)}


@pytest.mark.parametrize("count", [0, 1, 6, 17])
def test_exactly_the_parameters_that_changed_most_are_kept(count):
    base, tuned = tensors(0), tensors(1)
    masks = largest_changes(tuned, base, count)
    assert sum(int(mask.sum()) for mask in masks.values()) == count
    changes = {name: np.abs(tuned[name].numpy() - base[name].numpy()) for name in base}
    ranked = sorted(np.concatenate([one.ravel() for one in changes.values()]), reverse=True)
    for name, mask in masks.items():
        wanted = changes[name] >= (ranked[count - 1] if count else np.inf)
        np.testing.assert_array_equal(mask.numpy(), wanted)


def test_equal_changes_make_no_more_parameters_than_asked_for():
    base = {"a": torch.zeros(10)}
    assert int(largest_changes({"a": torch.ones(10)}, base, 4)["a"].sum()) == 4


def test_a_difference_makes_one_model_of_the_other(tmp_path):
    base, tuned = tensors(0), tensors(0)
    tuned["a"][1, 2] += 2.0
    tuned["a"][0, 0] -= 0.5
    found = difference(tuned, base)
    assert set(found) == {"a"}
    assert found["a"][0].tolist() == [0, 6]
    save_difference(found, tmp_path / "one.safetensors")
    again = added(base, [load_difference(tmp_path / "one.safetensors")])
    for name, value in tuned.items():
        torch.testing.assert_close(again[name], value)


def test_differences_add_up_where_they_overlap_and_in_any_order():
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    one = {"a": (torch.tensor([0, 1]), torch.tensor([1.0, 2.0]))}
    other = {"a": (torch.tensor([1, 3]), torch.tensor([10.0, 20.0])), "b": (torch.tensor([0]), torch.tensor([-1.0]))}
    for order in ([one, other], [other, one]):
        found = added(base, order)
        assert found["a"].tolist() == [1.0, 12.0, 0.0, 20.0]
        assert found["b"].tolist() == [0.0, 1.0]


def test_a_difference_of_another_model_is_refused():
    for odd in ({"c": (torch.tensor([0]), torch.tensor([1.0]))}, {"a": (torch.tensor([12]), torch.tensor([1.0]))}):
        with pytest.raises(ValueError, match="where the model has nothing"):
            added(tensors(0), [odd])
    with pytest.raises(ValueError, match=r"lacks \['b'\]"):
        difference({"a": tensors(0)["a"]}, tensors(0))
    with pytest.raises(ValueError, match="count is 18; there are 17 parameters"):
        largest_changes(tensors(1), tensors(0), 18)
