"""Choosing one level for each part of a model so that all of it takes no longer than allowed and loses least.

A part is an attention or an MLP, a level how much of it stays. Structured SPDY: dynamic programming finds the best
levels if errors added up, with a weight for each part; a random search over these weights finds those whose result
serves the model best. Papers: Frantar and Alistarh 2022 (SPDY), arXiv:2201.13096; Kurtic et al. 2023 (ZipLM),
arXiv:2302.04089; after their descriptions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]


def best_levels(
    seconds: Sequence[Numbers], errors: Sequence[Numbers], budget: float, *, buckets: int = 10_000
) -> list[int]:
    """The levels with the least sum of errors among those whose seconds add up to the budget at most.

    Time is counted in `buckets` of the budget, each part's rounded up: the budget holds, and what is found is the best
    of those that hold it with a margin of one bucket a part.

    Args:
        seconds: for each part, those of each level.
        errors: for each part, those of each level.
        budget: seconds of all parts together.
        buckets: how finely time is counted.

    Raises:
        ValueError: even the fastest levels take longer.
    """
    fastest = sum(min(one) for one in seconds)
    if fastest > budget or budget <= 0:
        raise ValueError(f"The parts are to take {budget:.3g} s; the fastest levels take {fastest:.3g} s.")
    whole = [int(np.argmin(one)) for one in errors]
    if sum(times[level] for times, level in zip(seconds, whole, strict=True)) <= budget * (1 + 1e-9):
        return whole  # which rounding might leave out
    least = np.zeros(buckets + 1)
    choices = []
    for times, costs in zip(seconds, errors, strict=True):
        found = np.full(buckets + 1, np.inf)
        choice = np.zeros(buckets + 1, dtype=np.int64)
        for level, (time, cost) in enumerate(zip(times, costs, strict=True)):
            # A little tolerance, or a time that is whole in buckets would be rounded to one more.
            size = int(np.ceil(time / budget * buckets - 1e-9))
            if size > buckets:
                continue
            candidate = np.full(buckets + 1, np.inf)
            candidate[size:] = least[: buckets + 1 - size] + cost
            better = candidate < found
            found[better], choice[better] = candidate[better], level
        least = found
        choices.append((choice, times))
    if not np.isfinite(least[buckets]):
        raise ValueError(f"No levels take {budget:.3g} s when time is counted in {buckets} buckets; give more of them.")
    left, levels = buckets, []
    for choice, times in reversed(choices):
        level = int(choice[left])
        left -= int(np.ceil(times[level] / budget * buckets - 1e-9))
        levels.append(level)
    return levels[::-1]


def search_levels(
    seconds: Sequence[Numbers],
    errors: Sequence[Numbers],
    budget: float,
    loss: Callable[[list[int]], float],
    *,
    trials: int,
    seed: int = 0,
    buckets: int = 10_000,
    share: float = 0.1,
) -> list[int]:
    """`best_levels` for the weights of parts under which the loss is least, of those that were tried.

    All weights begin as 1; a trial draws some of the best ones anew, evenly from 0 to 1, and is kept if it is better.

    Args:
        seconds: see `best_levels`.
        errors: see `best_levels`.
        budget: see `best_levels`.
        loss: of the model with these levels; asked once for each list of them.
        trials: how many; with none the loss is not asked.
        seed: of the draws.
        buckets: see `best_levels`.
        share: of the weights that a trial draws, at least one.
    """
    weights = np.ones(len(seconds))
    best = best_levels(seconds, errors, budget, buckets=buckets)
    if trials == 0:
        return best
    known = {tuple(best): loss(best)}
    least = known[tuple(best)]
    generator = np.random.default_rng(seed)
    for _ in range(trials):
        drawn = weights.copy()
        places = generator.choice(len(weights), max(round(share * len(weights)), 1), replace=False)
        drawn[places] = generator.random(len(places))
        weighted = [weight * np.asarray(one) for weight, one in zip(drawn, errors, strict=True)]
        levels = best_levels(seconds, weighted, budget, buckets=buckets)
        if tuple(levels) not in known:
            known[tuple(levels)] = loss(levels)
        if known[tuple(levels)] < least:
            least, best, weights = known[tuple(levels)], levels, drawn
    return best
