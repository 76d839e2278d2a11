"""Growing and shrinking along axes, against products with matrices and the authors' and others' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_weightmaps.unit_maps import UnitMap, cyclic, drawn

# Units 0 to 3 and copies of 1, 3 and 1.
INDEX = [0, 1, 2, 3, 1, 3, 1]


def matrices(index, num_small):
    """Written by hand: a column of ones per copy, and the shares of what is read."""
    copies = np.zeros((len(index), num_small))
    copies[np.arange(len(index)), index] = 1
    shares = copies / copies.sum(0)
    return copies, shares


@pytest.mark.parametrize("parts", [1, 3])
def test_indexing_is_the_product_with_the_matrices(parts):
    units = UnitMap(torch.tensor(INDEX), 4).repeated(parts)
    copies, shares = (np.kron(np.eye(parts), one) for one in matrices(INDEX, 4))
    small, big = np.random.default_rng(0).normal(size=(2, 5, 7 * parts))
    small = small[:, : 4 * parts]
    for role, up in (("out", copies), ("in", shares)):
        grown = units.expand(torch.tensor(small), 1, role)
        np.testing.assert_allclose(grown.numpy(), small @ up.T, rtol=1e-12)
    # What is read from copies is summed, what they write is averaged.
    np.testing.assert_allclose(units.reduce(torch.tensor(big), 1, "in").numpy(), big @ copies, rtol=1e-12)
    np.testing.assert_allclose(units.reduce(torch.tensor(big), 1, "out").numpy(), big @ shares, rtol=1e-12)


def test_expansion_is_that_of_another_implementation():
    # zxhcelestes/bert2BERT, pytorch_version/expand.py: expand_fpi(W, 3, 7, {4: 1, 5: 3, 6: 1}, "col") and
    # expand_copy(W, 5, 4, {3: 0, 4: 2}, "row") for W = arange(12).reshape(3, 4).
    weight = torch.arange(12.0).reshape(3, 4)
    split = [
        [0.0, 1 / 3, 2.0, 1.5, 1 / 3, 1.5, 1 / 3],
        [4.0, 5 / 3, 6.0, 3.5, 5 / 3, 3.5, 5 / 3],
        [8.0, 3.0, 10.0, 5.5, 3.0, 5.5, 3.0],
    ]
    torch.testing.assert_close(UnitMap(torch.tensor(INDEX), 4).expand(weight, 1, "in"), torch.tensor(split))
    copied = UnitMap(torch.tensor([0, 1, 2, 0, 2]), 3).expand(weight, 0, "out")
    assert copied.tolist() == [*weight.tolist(), [0.0, 1.0, 2.0, 3.0], [8.0, 9.0, 10.0, 11.0]]


def test_a_map_that_loses_a_unit_of_the_small_model_is_refused():
    with pytest.raises(ValueError, match="each of the 3 units"):
        UnitMap(torch.tensor([0, 1, 0]), 3)


def test_the_first_place_of_a_unit_does_not_count_as_a_copy():
    assert UnitMap(torch.tensor(INDEX), 4).is_copy.tolist() == [False] * 4 + [True] * 3
    assert not cyclic(4, 4).is_copy.any()
    assert cyclic(4, 4).is_identity


def test_maps_with_unequal_numbers_of_copies_are_not_balanced():
    assert cyclic(8, 4).is_balanced
    assert not cyclic(9, 4).is_balanced
    units = drawn(64, 16, torch.Generator().manual_seed(0))
    assert units.index[:16].tolist() == list(range(16))
    assert not units.is_balanced


def test_the_places_of_a_head_stay_together():
    assert cyclic(4, 2).widened(3).index.tolist() == [0, 1, 2, 3, 4, 5] * 2
