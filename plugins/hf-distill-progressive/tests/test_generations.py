"""Generations in closed form against the published toy and against search."""

import numpy as np
import pytest
from hf_distill_progressive.generations import best_alpha, ridge_generations, ridge_limit

# The eleven points of Mobahi et al. (2020, arXiv:2002.05715) that the paper's notebook uses.
LABELS = np.array(
    [0.38476636465198066, 1.2333967683416893, 1.33232242218057, 0.69201594888895180, -0.29756145531871736,
     -0.24189291901377769, -0.7964485769175675, -0.9616480167034174, -0.49672509509916934, -0.3469066003991437,
     0.5589512650600734]
)  # fmt: skip
INPUTS = np.arange(11) / 10
GRID = np.arange(0, 1.01, 0.01)


def rbf(first, second):
    return np.exp(-80 * (first[:, None] - second[None]) ** 2)


@pytest.mark.parametrize(
    ("alpha", "losses", "limit"),
    [
        (0.0, [0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251], 0.49505),
        (0.35, [0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948], 0.14959),
    ],
)
def test_the_toy_has_the_published_losses(alpha, losses, limit):
    options = {"regularization": 0.2, "alpha": alpha, "new": rbf(GRID, INPUTS)}
    found = ridge_generations(rbf(INPUTS, INPUTS), LABELS, steps=6, **options)
    truth = np.sin(2 * np.pi * GRID)
    assert [((f - truth) ** 2).mean() for f in found] == pytest.approx(losses, abs=5e-6)
    last = ridge_limit(rbf(INPUTS, INPUTS), LABELS, **options)
    assert ((last - truth) ** 2).mean() == pytest.approx(limit, abs=5e-6)


def test_many_generations_come_to_the_limit():
    kernel = rbf(INPUTS, INPUTS)
    options = {"regularization": 0.2, "alpha": 0.35}
    last = ridge_generations(kernel, LABELS, steps=200, **options)[-1]
    assert last == pytest.approx(ridge_limit(kernel, LABELS, **options), abs=1e-12)


def test_the_closed_form_is_the_best_of_a_grid():
    rng = np.random.default_rng(0)
    targets, of_labels, of_teacher = rng.normal(size=(3, 20))
    grid = np.linspace(-3, 3, 60001)
    errors = [((a * of_labels + (1 - a) * of_teacher - targets) ** 2).sum() for a in grid]
    assert best_alpha(targets, of_labels, of_teacher, clip=False) == pytest.approx(grid[np.argmin(errors)], abs=1e-4)
    assert best_alpha(of_labels + 5 * (of_labels - of_teacher), of_labels, of_teacher) == 1.0
    with pytest.raises(ValueError, match="predict the same"):
        best_alpha(targets, of_labels, of_labels)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        ridge_limit(np.eye(2), np.ones(2), regularization=0.1, alpha=1.5)
