"""The recursion against a second implementation in decimal arithmetic, closed forms, and facts known of it."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hf_distill_ddk.recursion import log_factors_initial, log_factors_update, perplexity_ratios
from hypothesis import example, given, settings
from hypothesis import strategies as st

TEN = np.linspace(1.12, 1.75, 10)
OUTLIER = np.array([1.3] * 9 + [6.0])


def factors_initial(ratios):
    return np.exp(log_factors_initial(ratios))


def factors_update(factors, ratios, *, alpha):
    with np.errstate(divide="ignore"):
        return np.exp(log_factors_update(np.log(factors), ratios, alpha=alpha))


def decimal_recursion(ratios_by_interval, alpha):
    """Eq. 1, then Eq. 2 for each further interval, as printed, with 60 digits: nothing overflows or cancels."""
    with localcontext() as context:
        context.prec = 60
        first, *rest = [[Decimal(float(ratio)) for ratio in ratios] for ratios in ratios_by_interval]
        powers = [ratio.exp() for ratio in first]
        factors = [power / sum(powers) for power in powers]
        share = Decimal(float(alpha))
        for ratios in rest:
            psi = [factor * ratio.exp() for factor, ratio in zip(factors, ratios, strict=True)]
            factors = [share * value / sum(psi) + (1 - share) / len(psi) for value in psi]
        return [float(factor) for factor in factors]


@settings(max_examples=60, deadline=None)
@example([[1.0, 1.0, 1.0, 739.0, 1.0], [1.0, 1.0, 1.0, 1.0, 724.0]], 0.5)  # a factor of e-738 comes back
@given(
    st.integers(1, 6).flatmap(
        lambda n: st.lists(st.lists(st.floats(0.01, 2000), min_size=n, max_size=n), min_size=2, max_size=5)
    ),
    st.floats(0, 0.999),
)
def test_the_recursion_is_the_papers_also_where_its_exponentials_overflow(ratios_by_interval, alpha):
    first, *rest = map(np.array, ratios_by_interval)
    log_factors = log_factors_initial(first)
    for ratios in rest:
        log_factors = log_factors_update(log_factors, ratios, alpha=alpha)
        factors = np.exp(log_factors)
        assert factors.sum() == pytest.approx(1, rel=1e-12)
        floor = (1 - alpha) / len(factors)
        assert (factors >= floor * (1 - 1e-12)).all()
        assert (factors <= (alpha + floor) * (1 + 1e-12)).all()
    # Ratios of thousands carry rounding errors of 1e-13 into the exponent.
    np.testing.assert_allclose(factors, decimal_recursion(ratios_by_interval, alpha), rtol=1e-9, atol=1e-300)


def test_the_first_factors_are_those_of_equation_one():
    expected = [2 / 7, 4 / 7, 1 / 7]
    np.testing.assert_allclose(factors_initial(1 + np.log([2.0, 4.0, 1.0])), expected, rtol=1e-14)


def test_an_update_gives_the_factors_of_equation_two():
    factors = factors_update(np.array([0.5, 0.25, 0.25]), np.log([1.0, 2.0, 4.0]), alpha=0.5)
    # psi = 0.5, 0.5, 1; a quarter, a quarter, a half; halved, and a sixth each.
    np.testing.assert_allclose(factors, [1 / 8 + 1 / 6, 1 / 8 + 1 / 6, 1 / 4 + 1 / 6], rtol=1e-14)


def test_constant_ratios_settle_in_six_intervals_on_a_mild_mixture():
    trace = [factors_initial(TEN)]
    for _ in range(12):
        trace.append(factors_update(trace[-1], TEN, alpha=0.5))
    assert np.abs(trace[6] - trace[12]).max() < 2e-3
    assert trace[12].min() == pytest.approx(0.08, abs=0.01)
    assert trace[12].max() == pytest.approx(0.15, abs=0.01)


def test_smoothing_bounds_what_one_outlier_takes():
    assert factors_initial(OUTLIER).max() == pytest.approx(0.92, abs=0.005)
    factors = factors_initial(OUTLIER)
    for _ in range(20):
        factors = factors_update(factors, OUTLIER, alpha=0.5)
        assert 0.05 <= factors.min() <= factors.max() <= 0.55
    assert factors.max() == pytest.approx(0.55, abs=0.005)


def test_without_alpha_domains_are_equal_and_with_all_of_it_factors_multiply():
    np.testing.assert_allclose(factors_update(factors_initial(TEN), TEN, alpha=0), np.full(10, 0.1), rtol=1e-14)
    factors = factors_initial(TEN)
    for _ in range(4):
        factors = factors_update(factors, TEN, alpha=1)
    np.testing.assert_allclose(factors, np.exp(5 * TEN) / np.exp(5 * TEN).sum(), rtol=1e-12)


def test_a_factor_that_has_reached_zero_stays_there_without_a_nan():
    factors = factors_update(np.array([1.0, 0.0]), np.array([1.0, 5.0]), alpha=1)
    assert factors.tolist() == [1, 0]


def test_ratios_are_of_perplexities_and_not_of_losses():
    student, teacher = np.array([2.0, 1000.0]), np.array([1.5, 999.0])
    np.testing.assert_allclose(perplexity_ratios(student, teacher), np.exp([0.5, 1.0]), rtol=1e-14)
    np.testing.assert_allclose(perplexity_ratios(student, teacher, max_ratio=2), [np.exp(0.5), 2], rtol=1e-14)
    with pytest.raises(ValueError, match=r"not finite: student \[nan, 2.0\]"):
        perplexity_ratios(np.array([np.nan, 2.0]), np.ones(2))
