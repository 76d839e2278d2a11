"""Divergences against SciPy-style NumPy in float64, autograd and finite differences."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from hf_distill.batch.signals import IGNORE_INDEX
from hf_distill.losses import divergences as own


def softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def kl(p, q):
    return np.where(p > 0, p * (np.log(np.where(p > 0, p, 1)) - np.log(np.where(q > 0, q, 1e-300))), 0).sum(-1)


# Written for clarity, from the papers: student logits, teacher logits -> values.
REFERENCES = {
    "forward_kl": (own.forward_kl, lambda q, p: kl(p, q)),
    "reverse_kl": (own.reverse_kl, lambda q, p: kl(q, p)),
    "jsd": (own.jsd, lambda q, p: 0.5 * kl(p, (p + q) / 2) + 0.5 * kl(q, (p + q) / 2)),
    "jsd 0.9": (
        partial(own.jsd, beta=0.9),
        lambda q, p: 0.9 * kl(p, 0.9 * p + 0.1 * q) + 0.1 * kl(q, 0.9 * p + 0.1 * q),
    ),
    "skewed_kl": (own.skewed_kl, lambda q, p: kl(p, 0.1 * p + 0.9 * q)),
    "skewed_kl 0.6": (partial(own.skewed_kl, alpha=0.6), lambda q, p: kl(p, 0.6 * p + 0.4 * q)),
    "skewed_reverse_kl": (own.skewed_reverse_kl, lambda q, p: kl(q, 0.9 * p + 0.1 * q)),
    "skewed_reverse_kl 0.6": (partial(own.skewed_reverse_kl, alpha=0.6), lambda q, p: kl(q, 0.4 * p + 0.6 * q)),
    "total_variation": (own.total_variation, lambda q, p: 0.5 * np.abs(p - q).sum(-1)),
    "hellinger": (own.hellinger, lambda q, p: 1 - np.sqrt(p * q).sum(-1)),
}
every = pytest.mark.parametrize("name", REFERENCES)
FUNCTIONS = {**{name: function for name, (function, _) in REFERENCES.items()}, "logit_mse": own.logit_mse}
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def logits(num_rows=6, columns=11, *, seed=0, spread=3.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(num_rows, columns, generator=generator, dtype=torch.float64) * spread).to(dtype)


@every
@pytest.mark.parametrize("spread", [0.1, 3.0, 60.0])
def test_values_are_those_of_the_papers(name, spread):
    function, reference = REFERENCES[name]
    student, teacher = logits(seed=0, spread=spread), logits(seed=1, spread=spread)
    expected = reference(softmax(student.numpy()), softmax(teacher.numpy()))
    np.testing.assert_allclose(function(student, teacher).numpy(), expected, rtol=1e-9, atol=1e-12)
    single = function(student.float(), teacher.float())
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=2e-5, atol=3e-7)


@every_function
@pytest.mark.parametrize("temperature", [1, 2, 4])
def test_gradients_are_those_of_finite_differences(name, temperature):
    student, teacher = logits(3, 7, seed=2).requires_grad_(), logits(3, 7, seed=3)
    assert torch.autograd.gradcheck(lambda x: FUNCTIONS[name](x / temperature, teacher / temperature), (student,))


@every_function
def test_a_student_that_says_what_the_teacher_says_has_no_loss_and_no_gradient(name):
    student = logits(dtype=torch.float32).requires_grad_()
    values = FUNCTIONS[name](student, student.detach().clone())
    values.sum().backward()
    torch.testing.assert_close(values.detach(), torch.zeros(6), rtol=0, atol=2e-7)
    torch.testing.assert_close(student.grad, torch.zeros(6, 11), rtol=0, atol=2e-7)


EXCLUDED = [
    (name, excluded)
    for name in FUNCTIONS
    for excluded in ("half", "all but one", "in both", "by the student")
    if (name, excluded) != ("logit_mse", "by the student")  # which really is infinitely far away
]


@pytest.mark.parametrize(("name", "excluded"), EXCLUDED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_excluded_words_give_finite_values_and_gradients(name, excluded, dtype):
    student, teacher = logits(dtype=dtype), logits(seed=1, dtype=dtype)
    if excluded in ("half", "in both"):
        teacher[:, ::2] = -torch.inf
    if excluded == "all but one":
        teacher[:, 1:] = -torch.inf
    if excluded in ("in both", "by the student"):
        student[:, ::2] = -torch.inf
    student.requires_grad_()
    values = FUNCTIONS[name](student, teacher)
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()
    assert values.sum() > 0


def test_one_hot_teachers_teach_like_labels():
    student = logits(dtype=torch.float32).requires_grad_()
    labels = torch.tensor([0, 3, 10, 5, 5, 1])
    teacher = torch.full((6, 11), -torch.inf).scatter(1, labels[:, None], 0.0)
    values = own.forward_kl(student, teacher)
    expected = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    torch.testing.assert_close(values, expected)
    (gradient,) = torch.autograd.grad(values.sum(), student, retain_graph=True)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), student)
    torch.testing.assert_close(gradient, expected_gradient)


@every_function
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_compared_in_float32(name, dtype):
    student, teacher = logits(dtype=dtype).requires_grad_(), logits(seed=1, dtype=dtype)
    values = FUNCTIONS[name](student, teacher)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, FUNCTIONS[name](student.float(), teacher.float()))
    values.sum().backward()
    assert student.grad.dtype == dtype


@every_function
def test_only_symmetric_divergences_stay_the_same_when_the_models_change_places(name):
    """Divergences that are not symmetric must change when the models change places; symmetric ones must not."""
    student, teacher = logits(seed=4), logits(seed=5)
    same = torch.allclose(FUNCTIONS[name](student, teacher), FUNCTIONS[name](teacher, student))
    assert same == (name in ("jsd", "total_variation", "hellinger", "logit_mse"))


@every_function
def test_the_teacher_gets_no_gradient(name):
    student, teacher = logits().requires_grad_(), logits(seed=1).requires_grad_()
    FUNCTIONS[name](student, teacher).sum().backward()
    assert teacher.grad is None


@pytest.mark.parametrize("beta", [1e-4, 1 - 1e-4])
def test_jsd_goes_to_zero_like_the_kl_at_its_ends(beta):
    student, teacher = logits(seed=0), logits(seed=1)
    if beta < 0.5:
        scaled, expected = own.jsd(student, teacher, beta=beta) / beta, own.forward_kl(student, teacher)
    else:
        scaled, expected = own.jsd(student, teacher, beta=beta) / (1 - beta), own.reverse_kl(student, teacher)
    torch.testing.assert_close(scaled, expected, rtol=0.05, atol=0)


@pytest.mark.parametrize("beta", [0, 1, -0.5, 2])
def test_a_beta_that_is_not_strictly_between_zero_and_one_is_refused(beta):
    with pytest.raises(ValueError, match="forward_kl"):
        own.jsd(logits(), logits(), beta=beta)


@pytest.mark.parametrize("function", [own.skewed_kl, own.skewed_reverse_kl])
@pytest.mark.parametrize("alpha", [0, 1, 3])
def test_an_alpha_that_is_not_strictly_between_zero_and_one_is_refused(function, alpha):
    with pytest.raises(ValueError, match="between 0 and 1"):
        function(logits(), logits(), alpha=alpha)


def test_logit_mse_reads_differences_of_logits():
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[3.0, 2.0], [1.0, -torch.inf]])
    assert own.logit_mse(student, teacher).tolist() == [2.0, 0.5]


def test_rows_without_label_cost_nothing():
    student = logits(dtype=torch.float32).requires_grad_()
    labels = torch.tensor([0, IGNORE_INDEX, 10, IGNORE_INDEX, 5, 1])
    values = own.cross_entropy(student, labels)
    values.sum().backward()
    kept = labels != IGNORE_INDEX
    expected = -np.log(softmax(student.detach().numpy())[kept.nonzero()[:, 0], labels[kept]])
    np.testing.assert_allclose(values[kept].detach().numpy(), expected, rtol=1e-5)
    assert values[~kept].tolist() == [0.0, 0.0]
    assert not student.grad[~kept].any()
