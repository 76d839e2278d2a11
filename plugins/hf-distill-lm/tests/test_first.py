"""FIRST against NumPy, the authors' default branch, and a teacher of which only some classes are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.first import first
from scipy.special import log_softmax, softmax

from hf_distill import Plugins, SparseRows
from hf_distill.testing import conformance


def recalibrated(probabilities, c):
    return softmax(probabilities / c, -1)


def in_numpy(student, teacher, c=0.3):
    p, q = softmax(teacher, -1), softmax(student, -1)
    ids = np.argsort(-p, -1)[:, :5]
    target, own = (np.take_along_axis(x, ids, -1) for x in (p, q))
    return (recalibrated(target, c) * (log_softmax(target / c, -1) - log_softmax(own / c, -1))).sum(-1)


test_conformance = conformance("first", plugins=["lm"], options={"calibration_temperature": 0.3}, reference=in_numpy)


@pytest.mark.parametrize(
    ("c", "expected"),
    [
        (1.0, [0.0183881035, 0.0310930440, 0.0240378542, 0.0223086310]),
        (0.3, [0.2414158212, 0.3735231094, 0.2513687068, 0.2340698420]),
    ],
)
def test_values_are_those_of_the_authors_default_branch(waves, c, expected):
    np.testing.assert_allclose(first(waves(0.0), waves(1.0), calibration_temperature=c), expected, rtol=1e-8)


def test_the_recalibration_is_that_of_the_paper():
    probabilities = np.array([0.9, 0.05, 0.03, 0.015, 0.005])
    np.testing.assert_allclose(recalibrated(probabilities, 1.0), [0.375, 0.160, 0.157, 0.155, 0.153], atol=5e-4)
    assert recalibrated(probabilities, 0.3)[0] == pytest.approx(0.822, abs=5e-4)
    # A student whose probabilities are p, and a teacher that is sure of class 0, so that its own are [1, 0, 0, 0, 0].
    student = torch.tensor(np.log(probabilities))[None]
    teacher = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf, -torch.inf]]).double()
    one_hot = recalibrated(np.eye(5)[0], 1.0)
    expected = (one_hot * np.log(one_hot / recalibrated(probabilities, 1.0))).sum()
    assert first(student, teacher).item() == pytest.approx(expected)


def sparse(teacher, keep):
    log_probs, ids = teacher.log_softmax(-1).topk(keep, -1)
    shuffled = torch.stack([torch.randperm(keep) for _ in teacher])
    log_probs, ids = log_probs.gather(-1, shuffled), ids.gather(-1, shuffled)
    tail = torch.log1p(-log_probs.exp().sum(-1).clamp(max=1 - 1e-12))
    return SparseRows(ids=ids, log_probs=log_probs, tail=tail, vocab_size=teacher.shape[1])


@pytest.mark.parametrize("keep", [5, 8, 20])
def test_a_cached_teacher_gives_the_values_and_the_gradient_of_the_dense_one(keep):
    student, teacher = torch.randn(6, 20).double().requires_grad_(), torch.randn(6, 20).double() * 3
    dense = first(student, teacher, calibration_temperature=0.3)
    found = first.on_sparse(student, sparse(teacher, keep), calibration_temperature=0.3)
    torch.testing.assert_close(found, dense)
    gradients = [torch.autograd.grad(x.sum(), student)[0] for x in (found, dense)]
    torch.testing.assert_close(*gradients)


def test_a_cache_that_keeps_too_little_is_an_error():
    with pytest.raises(ValueError, match="only 3 are kept"):
        first.on_sparse(torch.zeros(2, 20), sparse(torch.randn(2, 20), 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"num_classes": 1}, "num_classes is 1"), ({"calibration_temperature": 0}, "calibration_temperature is 0")],
)
def test_an_option_out_of_its_range_is_an_error(options, message):
    for call in (first, first.on_sparse):
        with pytest.raises(ValueError, match=message):
            call(torch.zeros(1, 9), torch.zeros(1, 9), **options)


def test_the_error_that_the_paper_chooses_its_temperature_by_is_a_metric():
    metric = Plugins().metrics.create("calibration", {"num_bins": 10})
    probabilities = torch.tensor([[0.95, 0.05], [0.65, 0.35], [0.65, 0.35], [0.35, 0.65]], dtype=torch.float64)
    found = metric.measure(probabilities.log(), labels=[0, 0, 1, 0])
    # Bins (0.9, 1]: 1 of 1 right; (0.6, 0.7]: 1 of 3 right.
    assert found["expected_calibration_error"] == pytest.approx(0.25 * 0.05 + 0.75 * abs(1 / 3 - 0.65))
