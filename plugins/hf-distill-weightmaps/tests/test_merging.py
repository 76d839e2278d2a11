"""Merging: the formulas of the papers, figures of their authors' code, and memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_weightmaps.merging import combine, dare, generator_for, magnitude_threshold, ties


def waves(k):
    """The weights that the authors' code was run on, a matrix and a vector."""
    matrix = torch.sin(torch.arange(12.0) * 0.7 + 1.3 * k).reshape(3, 4) * (1 + 0.1 * k)
    return torch.cat([matrix.flatten(), torch.cos(torch.arange(8.0) * 1.1 + k) * 0.5])


BASE = waves(0)
DELTAS = [waves(k) - BASE for k in (1, 2, 3)]
# yule-BUAA/MergeLM, model_merging_methods/merging_methods.py: ties_merging with param_value_mask_rate and
# scaling_coefficient. It drops what is below the (rate * n)-th smallest entry and keeps that one.
OFFICIAL_TIES = {
    (0.8, 1.0): [
        *(1.059914, -1.291798, -0.995055, -0.740501, -0.900105, -0.350783, 1.260857, 1.1256, 0.88258, 1.064711),
        *(-1.294067, -0.99545, 0.5, 0.226798, -0.294251, -0.49374, -0.153666, 0.354335, 0.475116, 0.076687),
    ],
    (0.5, 0.4): [
        *(0.423966, 0.090312, 0.388604, 0.272027, -0.164492, 0.256858, -0.152187, -0.350192, -0.025728, 0.435973),
        *(0.09354, 0.387892, 0.102001, 0.03511, -0.294251, -0.140821, 0.034739, 0.354335, 0.118729, 0.076687),
    ],
}
OFFICIAL_ARITHMETIC = [
    *(0.235326, -0.079838, -0.357453, -0.466952, -0.356837, -0.078895, 0.236152, 0.440133, 0.437113, 0.228511),
    *(-0.087563, -0.362454, -0.079876, -0.289141, -0.182431, 0.123641, 0.294597, 0.143615, -0.164311, -0.292676),
]


@pytest.mark.parametrize(("rate", "scale"), OFFICIAL_TIES)
def test_ties_is_that_of_the_authors_code(rate, scale):
    density = 1 - rate + 1 / len(BASE)
    thresholds = torch.tensor([magnitude_threshold(lambda one=one: [one], density) for one in DELTAS])
    found = combine(BASE, DELTAS, method="ties", scale=scale, thresholds=thresholds)
    assert found.tolist() == pytest.approx(OFFICIAL_TIES[rate, scale], abs=2e-6)


def test_task_arithmetic_is_that_of_the_authors_code():
    found = combine(BASE, DELTAS, method="task_arithmetic", scale=0.3)
    assert found.tolist() == pytest.approx(OFFICIAL_ARITHMETIC, abs=2e-6)
    average = combine(BASE, DELTAS, method="average", scale=0.9)
    torch.testing.assert_close(average, found)


def numpy_ties(deltas, keep):
    """Algorithm 1, entry by entry."""
    trimmed = []
    for delta in deltas:
        order = np.argsort(-np.abs(delta), kind="stable")[:keep]
        trimmed.append(np.where(np.isin(np.arange(len(delta)), order), delta, 0))
    merged = np.zeros(len(deltas[0]))
    for place in range(len(merged)):
        column = [one[place] for one in trimmed]
        sign = np.sign(sum(column))
        agreeing = [value for value in column if sign != 0 and np.sign(value) == sign]
        merged[place] = np.mean(agreeing) if agreeing else 0
    return merged


@pytest.mark.parametrize("density", [0.05, 0.3, 1.0])
def test_ties_follows_the_algorithm_of_the_paper(density):
    deltas = np.random.default_rng(0).normal(size=(4, 200)).astype(np.float32)
    thresholds = torch.tensor([magnitude_threshold(lambda one=one: [torch.tensor(one)], density) for one in deltas])
    found = ties(torch.tensor(deltas), thresholds)
    np.testing.assert_allclose(found.numpy(), numpy_ties(deltas, round(density * 200)), rtol=1e-6, atol=1e-7)


def test_entries_that_cancel_out_do_not_move_the_base():
    assert ties(torch.tensor([[1.0, 2.0], [-1.0, 3.0]]), torch.zeros(2)).tolist() == [0.0, 2.5]


@pytest.mark.parametrize("density", [1e-5, 0.2, 0.5, 0.999, 1.0])
def test_the_threshold_over_many_tensors_is_that_of_all_entries(density):
    generator = np.random.default_rng(1)
    # Magnitudes from 1e-8 to 1e4, zeros and equal entries among them.
    values = (10.0 ** generator.uniform(-8, 4, 5000) * generator.choice([-1, 1], 5000)).astype(np.float32)
    values[::50], values[1::100] = 0, 0.25
    chunks = [torch.tensor(one) for one in np.array_split(values, 7)]
    expected = np.sort(np.abs(values))[::-1][max(round(density * 5000), 1) - 1]
    assert magnitude_threshold(lambda: chunks, density) == expected


def test_dare_keeps_the_expectation():
    delta = torch.linspace(-1, 1, 50)
    draws = [dare(delta, 0.9, generator=generator_for(seed, 0, "w")) for seed in range(4000)]
    mean = torch.stack(draws).mean(0)
    # The deviation of a draw is |delta| sqrt(p / (1 - p)), that of the mean of 4,000 a 63rd.
    error = delta.abs() * (0.9 / 0.1) ** 0.5 / 4000**0.5
    assert ((mean - delta).abs() <= 4.5 * error + 1e-6).all()
    kept = torch.stack(draws) != 0
    assert float(kept[:, delta != 0].float().mean()) == pytest.approx(0.1, abs=0.005)


def test_drop_only_does_not_rescale():
    delta = torch.arange(1.0, 101.0)
    found = dare(delta, 0.5, rescale=False, generator=generator_for(0, 0, "w"))
    assert set(found.tolist()) <= {0.0, *delta.tolist()}
    assert torch.equal(dare(delta, 0.0, generator=generator_for(0, 0, "w")), delta)


def test_what_is_dropped_depends_on_the_seed_the_model_and_the_tensor():
    def drawn(seed, model, name):
        return torch.rand(4, generator=generator_for(seed, model, name)).tolist()

    assert drawn(0, 0, "a") == drawn(0, 0, "a")
    assert len({tuple(drawn(*one)) for one in [(0, 0, "a"), (0, 1, "a"), (0, 0, "b"), (1, 0, "a")]}) == 4
