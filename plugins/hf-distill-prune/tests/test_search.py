"""The search against trying every combination of levels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hf_distill_prune.search import best_levels, search_levels


def problem(seed, parts=4, levels=4):
    generator = np.random.default_rng(seed)
    seconds = [np.sort(generator.integers(1, 50, levels)).astype(float) for _ in range(parts)]
    errors = [np.sort(generator.random(levels))[::-1] for _ in range(parts)]
    return seconds, errors


def total(values, levels):
    return sum(one[level] for one, level in zip(values, levels, strict=True))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_no_combination_in_time_is_better(seed, share):
    seconds, errors = problem(seed)
    fastest, slowest = total(seconds, [0] * 4), total(seconds, [3] * 4)
    budget = float(round(fastest + share * (slowest - fastest)))
    # Whole seconds, a bucket each: nothing is rounded.
    found = best_levels(seconds, errors, budget, buckets=int(budget))
    assert total(seconds, found) <= budget
    possible = [one for one in itertools.product(range(4), repeat=4) if total(seconds, one) <= budget]
    assert total(errors, found) == pytest.approx(min(total(errors, one) for one in possible))


@pytest.mark.parametrize("seed", range(5))
def test_times_that_are_no_whole_buckets_keep_the_budget(seed):
    generator = np.random.default_rng(seed)
    seconds = [np.sort(generator.random(5)) for _ in range(6)]
    errors = [np.sort(generator.random(5))[::-1] for _ in range(6)]
    assert total(seconds, best_levels(seconds, errors, 2.5, buckets=50)) <= 2.5


def test_more_time_never_loses_more():
    seconds, errors = problem(0)
    lost = [total(errors, best_levels(seconds, errors, budget)) for budget in range(60, 200, 10)]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(lost))


def test_an_impossible_budget_is_refused():
    with pytest.raises(ValueError, match=r"are to take 1 s; the fastest levels take 4 s"):
        best_levels([[2.0, 3.0]] * 2, [[1.0, 0.0]] * 2, 1.0)


def test_a_loss_that_disagrees_with_the_sum_of_errors_is_followed():
    # Errors say that both parts matter alike; the loss says that only the second does.
    seconds, errors = [[0.0, 1.0]] * 2, [[1.0, 0.0], [0.9, 0.0]]
    asked = []

    def loss(levels):
        asked.append(tuple(levels))
        return float(levels[1] == 0)

    assert best_levels(seconds, errors, 1.0) == [1, 0]
    assert search_levels(seconds, errors, 1.0, loss, trials=50, seed=0) == [0, 1]
    assert len(set(asked)) == len(asked), "asked twice for the same levels"
