"""How positions become one vector, which examples count, and what a batch loss on examples is counted by."""

import numpy as np
import pytest
import torch
from hf_distill_features.pooled import pool
from hf_distill_features.rkd_distance import RKDDistance
from hf_distill_features.similarity_preserving import SimilarityPreserving

from hf_distill import Batch, Signal
from hf_distill.testing import tiny_model

MASK = torch.tensor([[True, True, False, False], [False, True, True, True], [False, False, False, False]])


def batch(mask):
    return Batch(inputs={}, extras={}, labels=None, row_labels=None, row_mask=mask, token_mask=mask)


@pytest.mark.parametrize("pooling", ["mean", "first", "last", "flatten"])
def test_padding_on_either_side_is_no_part_of_an_example(pooling):
    hidden = torch.randn(3, 4, 5)
    pick = {"mean": lambda x: x.mean(0), "first": lambda x: x[0], "last": lambda x: x[-1]}
    expected = [hidden[i][MASK[i]] for i in range(2)]
    found = pool(torch.where(MASK[:, :, None], hidden, torch.nan), MASK, pooling)
    if pooling == "flatten":
        torch.testing.assert_close(found, torch.where(MASK[:, :, None], hidden, 0).flatten(1))
    else:
        torch.testing.assert_close(found[:2], torch.stack([pick[pooling](x) for x in expected]))


def test_pixels_of_a_convolution_are_its_positions():
    features = torch.randn(2, 5, 3, 4)
    mask = torch.ones(2, dtype=torch.bool)
    torch.testing.assert_close(pool(features, mask), features.mean((2, 3)))
    torch.testing.assert_close(pool(features, mask, "first"), features[:, :, 0, 0])
    torch.testing.assert_close(pool(features[:, :, 0, 0], mask), features[:, :, 0, 0])


def test_features_of_other_positions_than_the_batch_has_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 9\) examples and positions"):
        pool(torch.randn(3, 9, 5), MASK)
    with pytest.raises(ValueError, match=r"expected \[B, H"):
        pool(torch.randn(3), MASK)


def test_the_sum_is_the_mean_over_layers_times_the_examples_that_count():
    loss = SimilarityPreserving(layers=[[0, 0], [1, 2]])
    loss.setup(tiny_model("llama"), tiny_model("llama", num_hidden_layers=3), None)
    ours = {name: torch.randn(3, 4, 5) for name in loss.student_taps}
    theirs = {name: torch.randn(3, 4, 7) for name in loss.teacher_taps}
    assert (loss.student_taps, loss.teacher_taps) == (("hidden.1", "hidden.2"), ("hidden.1", "hidden.3"))
    values = []
    for ours_name, theirs_name in (("hidden.1", "hidden.1"), ("hidden.2", "hidden.3")):
        grams = []
        for features in (ours[ours_name], theirs[theirs_name]):
            x = np.array([features[i][MASK[i]].numpy().mean(0) for i in range(2)])
            gram = x @ x.T
            grams.append(gram / np.linalg.norm(gram, axis=1, keepdims=True))
        values.append(((grams[0] - grams[1]) ** 2).mean())
    found = loss(Signal(features=ours), Signal(features=theirs), batch(MASK))
    assert found.item() == pytest.approx(2 * np.mean(values), rel=1e-5)
    assert loss.count(batch(MASK)) == 2


def test_named_features_stand_in_for_layers_of_models_that_have_none_in_common():
    loss = RKDDistance(taps=["module:vit.layernorm", "hidden.1"])
    loss.setup(tiny_model("vit"), tiny_model("llama"), None)
    assert (loss.student_taps, loss.teacher_taps) == (("module:vit.layernorm",), ("hidden.1",))
    with pytest.raises(ValueError, match="needs a teacher model"):
        loss.setup(tiny_model("vit"), None, None)


@pytest.mark.parametrize(
    "options",
    [
        {"pooling": "max"},
        {"taps": "hidden.1"},
        {"taps": ["hidden.1"]},
        {"taps": ["hidden.1", "query.0"]},
        {"taps": ["hidden.1", "module:a"], "layers": "top"},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        RKDDistance(**options)
