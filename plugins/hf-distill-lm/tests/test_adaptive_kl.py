"""AKL against NumPy and the values of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.adaptive_kl import adaptive_kl
from scipy.special import log_softmax

from hf_distill import forward_kl, reverse_kl
from hf_distill.testing import conformance


def head_weight(student, teacher, mu=0.5):
    q, p = np.exp(log_softmax(student, -1)), np.exp(log_softmax(teacher, -1))
    weights = []
    for own, its in zip(q, p, strict=True):
        order = np.argsort(-its)
        inside = np.cumsum(its[order]) <= mu
        inside[0] = True
        gaps = np.abs(its - own)[order]
        weights.append(gaps[inside].sum() / gaps.sum())
    return np.array(weights)


def in_numpy(student, teacher):
    log_q, log_p = log_softmax(student, -1), log_softmax(teacher, -1)
    forward, reverse = (np.exp(log_p) * (log_p - log_q)).sum(-1), (np.exp(log_q) * (log_q - log_p)).sum(-1)
    weight = head_weight(student, teacher)
    return weight * forward + (1 - weight) * reverse


test_conformance = conformance(
    "adaptive_kl",
    plugins=["lm"],
    reference=in_numpy,
    lacks={"finite_difference_gradient": "the weights are constants"},
)


def test_values_are_those_of_the_authors_code(waves):
    expected = [1.1026251316, 0.9594050646, 2.3928709030, 1.2457214594]
    np.testing.assert_allclose(adaptive_kl(waves(0.0), waves(1.0)), expected, rtol=1e-6)


@pytest.mark.parametrize("head", [0.2, 0.5, 0.9])
def test_the_gradient_is_that_of_both_divergences_with_the_weights_held(head):
    student, teacher = torch.randn(5, 40, dtype=torch.float64).requires_grad_(), torch.randn(5, 40) * 2
    teacher = teacher.double()
    weight = torch.as_tensor(head_weight(student.detach().numpy(), teacher.numpy(), head))
    expected = weight * forward_kl(student, teacher) + (1 - weight) * reverse_kl(student, teacher)
    values = adaptive_kl(student, teacher, head=head)
    torch.testing.assert_close(values, expected)
    found, expected = (torch.autograd.grad(x.sum(), student)[0] for x in (values, expected))
    torch.testing.assert_close(found, expected)


def test_a_teacher_that_is_sure_has_a_head_of_one_class_and_is_not_left_without():
    teacher = torch.tensor([[9.0, 0.0, 0.0, 0.0]])
    student = torch.tensor([[0.0, 0.0, 0.0, 9.0]])
    gaps = (student.softmax(-1) - teacher.softmax(-1)).abs()[0]
    weight = (gaps[0] / gaps.sum()).item()
    expected = weight * forward_kl(student, teacher) + (1 - weight) * reverse_kl(student, teacher)
    torch.testing.assert_close(adaptive_kl(student, teacher), expected)


def test_a_flat_teacher_of_many_words_gives_finite_values_and_gradients():
    student = torch.randn(2, 4000, requires_grad=True)
    values = adaptive_kl(student, torch.randn(2, 4000) * 0.01)
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()


def test_models_that_agree_give_zero_and_not_a_quotient_of_zeros():
    student = torch.randn(3, 8, requires_grad=True)
    values = adaptive_kl(student, student.detach().clone())
    values.sum().backward()
    assert values.abs().max() < 1e-6
    assert student.grad.abs().max() < 1e-6


@pytest.mark.parametrize("head", [0, 1, -2])
def test_a_head_that_is_no_share_between_zero_and_one_is_an_error(head):
    with pytest.raises(ValueError, match=f"head is {head}"):
        adaptive_kl(torch.zeros(1, 3), torch.zeros(1, 3), head=head)
