"""MI-alpha against a NumPy estimator without tricks, and against what is known of Gaussians."""

import math

import numpy as np
import pytest
import torch
from hf_distill_features.mi_alpha import MIAlpha, interpolated_bound

from hf_distill.testing import tiny_model


def numpy_bound(scores, log_baseline, alpha):
    """Joint and marginal term from their definitions, by loops over who is left out."""
    n, a = len(scores), np.exp(log_baseline)
    joint, marginal = [], []
    for i in range(n):
        weights = np.exp(scores[i])  # of all students with teacher i
        marginal.extend(
            weights[j] / (alpha * np.delete(weights, i).mean() + (1 - alpha) * a[i]) for j in range(n) if j != i
        )
        for left_out in range(n):
            if left_out != i:
                mean = np.delete(weights, left_out).mean()
                joint.append(scores[i, i] - np.log(alpha * mean + (1 - alpha) * a[i]))
    return 1 + np.mean(joint) - np.mean(marginal)


@pytest.mark.parametrize("alpha", [0, 0.1, 0.5, 0.9, 1])
def test_value_and_gradient_are_those_of_the_definition(alpha):
    generator = np.random.default_rng(0)
    scores, log_baseline = generator.standard_normal((5, 5)) * 2, generator.standard_normal(5)
    tensors = [torch.tensor(x, requires_grad=True) for x in (scores, log_baseline)]
    present = torch.ones(5, dtype=torch.bool)
    assert interpolated_bound(*tensors, alpha, present).item() == pytest.approx(
        numpy_bound(scores, log_baseline, alpha), rel=1e-9
    )
    assert torch.autograd.gradcheck(lambda *x: interpolated_bound(*x, alpha, present), tensors)


# Ten dimensions of correlation 0.9: 8.30 nats, which alpha = 0 estimates without bias; the others were computed with
# Poole et al.'s estimator beforehand, 128 examples.
@pytest.mark.parametrize(("alpha", "expected"), [(0, 8.30), (0.1, 6.97), (0.5, 5.97), (0.9, 5.46), (1, 4.74)])
def test_gaussians_with_the_best_critic_give_the_known_bounds(alpha, expected):
    generator = np.random.default_rng(0)
    correlation, estimates = 0.9, []
    variance = 1 - correlation**2
    for _ in range(100):
        x = generator.standard_normal((128, 10))
        y = correlation * x + math.sqrt(variance) * generator.standard_normal((128, 10))
        gaps = ((y[:, None] - correlation * x[None]) ** 2 / variance - y[:, None] ** 2).sum(-1)
        scores = torch.tensor(-gaps / 2 - 5 * math.log(variance))  # log p(y | x) / p(y)
        bound = interpolated_bound(scores, torch.zeros(128), alpha, torch.ones(128, dtype=torch.bool))
        estimates.append(bound.item())
    assert np.mean(estimates) == pytest.approx(expected, abs=0.5 if alpha == 0 else 0.06)
    if alpha == 1:
        assert max(estimates) <= math.log(127)


def test_scores_whose_exponentials_overflow_give_a_finite_value_and_gradient():
    scores = torch.tensor([[900.0, -900.0, 0.0], [900.0, -900.0, 5.0], [0.0, 0.0, 0.0]], requires_grad=True)
    for alpha in (0.1, 0.5, 1):
        value = interpolated_bound(scores, torch.zeros(3), alpha, torch.ones(3, dtype=torch.bool))
        assert value.isfinite()
        assert torch.autograd.grad(value, scores)[0].isfinite().all()


def test_examples_that_only_fill_up_the_batch_change_nothing_and_one_alone_gives_zero():
    scores, log_baseline = torch.randn(6, 6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    scores[4:] = scores[:, 4:] = 1e3
    present = torch.tensor([True] * 4 + [False] * 2)
    whole = interpolated_bound(scores, log_baseline, 0.5, present)
    cut = interpolated_bound(scores[:4, :4], log_baseline[:4], 0.5, present[:4])
    torch.testing.assert_close(whole, cut)
    scores.requires_grad_()
    for alone in (torch.arange(6) == 1, torch.zeros(6, dtype=torch.bool)):
        value = interpolated_bound(scores, log_baseline, 0.5, alone)
        assert value.item() == 0
        assert not torch.autograd.grad(value, scores)[0].any()


def test_the_bound_without_a_baseline_owns_no_parameters_for_one():
    for alpha, parameters in ((1, 4), (0.5, 6)):
        loss = MIAlpha(alpha=alpha)
        loss.setup(tiny_model("llama"), tiny_model("llama"), None)
        assert len(list(loss.parameters())) == parameters


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"baseline": "none"}, {"pooling": "flatten"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MIAlpha(**options)
