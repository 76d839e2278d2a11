"""AlignDistil against NumPy and the values of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.aligndistil import aligndistil
from scipy.special import log_softmax, softmax

from hf_distill.testing import conformance


def in_numpy(student, preferred, other):
    weight = 10.0 * np.abs(softmax(preferred, -1) - softmax(other, -1)).sum(-1, keepdims=True) + 1e-3
    log_target = log_softmax(preferred + weight * (preferred - other), -1)
    log_q = log_softmax(student, -1)
    return (0.1 / weight[:, 0]) * (np.exp(log_q) * (log_q - log_target)).sum(-1)


test_conformance = conformance("aligndistil", plugins=["lm"], reference=in_numpy, num_teachers=2)


def test_values_are_those_of_the_authors_code(waves):
    expected = [0.0499537332, 0.0298468473, 0.0414274422, 0.0388751021]
    np.testing.assert_allclose(aligndistil(waves(0.0), waves(1.0), waves(2.0)), expected, rtol=1e-8)


def test_teachers_in_the_other_order_give_other_values(waves):
    right, wrong = (aligndistil(waves(0.0), *pair) for pair in ((waves(1.0), waves(2.0)), (waves(2.0), waves(1.0))))
    assert (right - wrong).abs().min() > 1e-3


def test_words_that_both_teachers_exclude_give_finite_values():
    student = torch.randn(3, 7, requires_grad=True)
    preferred, other = (torch.randn(3, 7).masked_fill(torch.arange(7) < 3, -torch.inf) for _ in range(2))
    values = aligndistil(student, preferred, other)
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("options", [{"beta": 0}, {"extrapolation": -1}])
def test_an_option_that_is_not_positive_is_an_error(options):
    with pytest.raises(ValueError, match="expected positive numbers"):
        aligndistil(torch.zeros(1, 3), torch.zeros(1, 3), torch.zeros(1, 3), **options)
