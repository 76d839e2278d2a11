"""VID against the value of the official code, and its smallest value against calculus."""

import numpy as np
import pytest
import torch
from hf_distill_features.vid import VID, Gaussian, gaussian_nll


# From distiller_zoo/VID.py of HobbitLong/RepDistiller.
def test_value_is_that_of_the_official_code():
    generator = np.random.default_rng(1)

    def normal(*shape):
        return torch.tensor(generator.standard_normal(shape))

    gaussian = Gaussian(5, 8, 5.0).double()
    with torch.no_grad():
        for index, width in ((0, 5), (2, 8), (4, 8)):
            gaussian.mean[index].weight.copy_(normal(8, width))
        gaussian.log_scale.add_(normal(8))
    student, teacher = normal(6, 5), normal(6, 8)
    value = gaussian_nll(*gaussian(student), teacher).mean()
    assert value.item() == pytest.approx(4.527135562880113, rel=1e-7)


def test_variances_start_where_they_are_told_to():
    _, variance = Gaussian(3, 2, 0.25)(torch.zeros(1, 3))
    torch.testing.assert_close(variance, torch.full((2,), 0.25))


def test_the_best_variance_is_the_mean_squared_error():
    target = torch.randn(1000, 1, dtype=torch.float64)
    best = target.square().mean(0)
    values = [gaussian_nll(torch.zeros(1000, 1), factor * best, target).mean() for factor in (0.9, 1.0, 1.1)]
    assert values[1] < min(values[0], values[2])


def test_a_variance_below_the_smallest_is_refused():
    with pytest.raises(ValueError, match="initial_variance is 0"):
        VID(initial_variance=0)
