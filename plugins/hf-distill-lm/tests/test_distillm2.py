"""DistiLLM-2 against NumPy, the built-in divergences and the values of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.distillm2 import STUDENT, TEACHER, DistiLLM2
from scipy.special import softmax

from hf_distill import StepInfo, skewed_kl, skewed_reverse_kl
from hf_distill.testing import conformance


def in_numpy(student, teacher, source):
    q, p = softmax(student, -1), softmax(teacher, -1)
    m, n = 0.1 * p + 0.9 * q, 0.9 * p + 0.1 * q
    return np.where(source == TEACHER, (p * np.log(p / m)).sum(-1), (q * np.log(q / n)).sum(-1))


test_conformance = conformance(
    "distillm2", plugins=["lm"], reference=in_numpy, columns={"source": [TEACHER, STUDENT, STUDENT, TEACHER]}
)


def test_values_are_those_of_the_authors_code(waves):
    expected = {
        TEACHER: [0.7133659402, 0.7329916847, 1.0887155004, 0.7160608662],
        STUDENT: [0.7369353603, 0.6816525087, 1.3156581102, 0.8008267207],
    }
    for source, values in expected.items():
        found = DistiLLM2()(waves(0.0), waves(1.0), torch.tensor([source] * 4))
        np.testing.assert_allclose(found, values, rtol=1e-6)


def test_the_teachers_half_of_the_gradient_is_the_authors_and_the_students_half_is_not(waves):
    """Their code holds the student's part of the second mixture constant, which is not the derivative of the value."""
    student, teacher = waves(0.0).requires_grad_(), waves(1.0)
    forward, backward = (
        torch.autograd.grad(DistiLLM2()(student, teacher, torch.tensor([source] * 4)).sum(), student)[0][0]
        for source in (TEACHER, STUDENT)
    )
    np.testing.assert_allclose(
        forward[:5], [-0.1059198257, 0.1742901836, -0.0014365871, -0.2012015815, 0.0364621085], rtol=1e-6
    )
    theirs = [-0.0795214844, 0.3173424471, -0.0020451314, -0.2550088111, 0.0670576041]
    assert np.abs(backward[:5].numpy() - theirs).max() > 1e-3
    q, p = student.detach()[0].softmax(-1).requires_grad_(), teacher[0].softmax(-1)
    mixture = (0.9 * p + 0.1 * q).detach()
    held = q * (torch.log(q / mixture) - (q * torch.log(q / mixture)).sum())
    np.testing.assert_allclose(held.detach()[:5], theirs, rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.1, 0.7])
def test_each_source_gets_its_own_divergence_with_its_own_gradient(alpha):
    student, teacher = torch.randn(6, 11).double().requires_grad_(), torch.randn(6, 11).double() * 2
    source = torch.tensor([TEACHER, STUDENT] * 3)
    values = DistiLLM2(alpha=alpha)(student, teacher, source)
    expected = torch.where(
        source == TEACHER,
        skewed_kl(student, teacher, alpha=alpha),
        skewed_reverse_kl(student, teacher, alpha=alpha),
    )
    torch.testing.assert_close(values, expected)
    found, expected = (torch.autograd.grad(x.sum(), student)[0] for x in (values, expected))
    torch.testing.assert_close(found, expected)


def test_the_weight_moves_to_the_students_answers_over_the_first_half_of_the_run():
    loss = DistiLLM2(final_weight=1.5)
    weights = [loss.weight.item()]
    for step in (1, 2, 3, 4):
        loss.on_step_end(StepInfo(step=step, max_steps=4, losses={}))
        weights.append(loss.weight.item())
    assert weights == [1.0, 1.25, 1.5, 1.5, 1.5]
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    source = torch.tensor([TEACHER, STUDENT])
    ratio = loss(student, teacher, source) / DistiLLM2()(student, teacher, source)
    assert ratio.tolist() == pytest.approx([0.5, 1.5])


def test_the_weight_survives_half_precision():
    loss = DistiLLM2(final_weight=1.5)
    loss.on_step_end(StepInfo(step=1001, max_steps=4096, losses={}))
    assert loss.bfloat16().weight.item() == pytest.approx(1 + 0.5 * 2002 / 4096, abs=1e-7)


@pytest.mark.parametrize("options", [{"alpha": 0}, {"alpha": 1}, {"final_weight": 0.5}, {"final_weight": 2}])
def test_an_option_out_of_its_range_is_an_error(options):
    with pytest.raises(ValueError, match="expected a number"):
        DistiLLM2(**options)
