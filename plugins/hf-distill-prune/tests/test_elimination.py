"""Which words leave and how many, against NumPy that goes word by word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_prune.elimination import (
    keep_best,
    needed_share,
    received_attention,
    rising_elimination,
    words_to_keep,
)


def attention(seed=0, batch=2, heads=3, length=5):
    generator = np.random.default_rng(seed)
    mask = np.ones((batch, length), dtype=bool)
    mask[1, 3:] = False
    raw = generator.random((batch, heads, length, length)) * mask[:, None, None]
    return raw / raw.sum(-1, keepdims=True), mask


def test_words_receive_the_mean_attention_over_heads_and_words_that_look():
    probabilities, mask = attention()
    found = received_attention(torch.tensor(probabilities), torch.tensor(mask)).numpy()
    for example, length in enumerate((5, 3)):
        for word in range(5):
            looks = [probabilities[example, head, looking, word] for head in range(3) for looking in range(length)]
            wanted = sum(looks) / len(looks) if word < length else 0.0
            assert found[example, word] == pytest.approx(wanted, rel=1e-6)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("share", "wanted"), [(0.4, [1 / 4, 1 / 3]), (0.5, [2 / 4, 1 / 3]), (0.9, [3 / 4, 2 / 3]), (1.0, [1.0, 1.0])]
)
def test_the_fewest_words_that_have_the_share_are_needed(share, wanted):
    scores = torch.tensor([[0.1, 0.4, 0.2, 0.3], [0.5, 0.4, 0.1, 0.0]])
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert needed_share(scores, mask, share).tolist() == pytest.approx(wanted)


def test_a_profile_never_rises_and_never_falls_below_its_minimum():
    assert rising_elimination([0.9, 0.95, 0.5, 0.6, 0.01], 0.1) == [0.9, 0.9, 0.5, 0.5, 0.1]


def test_an_example_keeps_at_least_one_word_and_no_more_than_it_has():
    mask = torch.tensor([[True] * 6, [True, True, True, False, False, False]])
    assert words_to_keep(mask, torch.tensor([10, 4]), 0.5).tolist() == [5, 2]
    assert words_to_keep(mask, torch.tensor([10, 4]), 0.9).tolist() == [6, 3]  # no more than are there
    assert words_to_keep(mask, torch.tensor([10, 4]), 0.01).tolist() == [1, 1]


def test_the_best_words_stay_in_order_with_the_first_word_and_without_padding():
    scores = torch.tensor([[0.0, 0.1, 0.5, 0.2, 0.4], [0.0, 0.7, 0.3, 9.0, 9.0]])
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    places, valid = keep_best(scores, mask, torch.tensor([3, 2]))
    assert places[0].tolist() == [0, 2, 4]
    assert valid[0].all()
    assert places[1][valid[1]].tolist() == [0, 1]
    assert len(set(places[1].tolist())) == 3, "a place twice: putting words back would overwrite one"
