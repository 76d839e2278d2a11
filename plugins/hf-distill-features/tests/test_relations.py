"""The losses on relations between examples: official code's values, NumPy's, gradients, scales, degenerate batches."""

import math

import numpy as np
import pytest
import torch
from hf_distill_features.correlation_congruence import CorrelationCongruence
from hf_distill_features.pkt import pkt
from hf_distill_features.rkd_angle import rkd_angle
from hf_distill_features.rkd_distance import rkd_distance
from hf_distill_features.similarity_preserving import similarity_preserving


def correlation_congruence(student, teacher, present):
    return CorrelationCongruence().relation(0, student, teacher, present)


LOSSES = [rkd_distance, rkd_angle, similarity_preserving, pkt, correlation_congruence]


def vectors(num_examples=6):
    generator = np.random.default_rng(0)
    return *(torch.tensor(generator.standard_normal((num_examples, width))) for width in (5, 8)), all_of(num_examples)


def all_of(num_examples):
    return torch.ones(num_examples, dtype=torch.bool)


# From distiller_zoo of HobbitLong/RepDistiller (RKD, SP, PKT) and CCKDLoss of torchdistill, whose norm is squared here.
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (rkd_distance, 0.025887561126000387),
        (rkd_angle, 0.028333090193505057),
        (similarity_preserving, 0.09595667155493873),
        (pkt, 0.02172746263126928),
        (correlation_congruence, 0.8741724368901156**2 / 36),
    ],
)
def test_value_is_that_of_the_official_code(loss, expected):
    assert loss(*vectors()).item() == pytest.approx(expected, rel=1e-6)


def smooth_l1(first, second):
    gap = np.abs(first - second)
    return np.where(gap < 1, gap**2 / 2, gap - 0.5).mean()


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_distances_are_those_that_numpy_finds_pair_by_pair():
    relative = []
    for x in (v.numpy() for v in vectors()[:2]):
        distances = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        relative.append(distances / distances[distances > 0].mean())
    assert rkd_distance(*vectors()).item() == pytest.approx(smooth_l1(*relative), rel=1e-12)


def test_angles_are_those_that_numpy_finds_triplet_by_triplet():
    found = []
    for x in (v.numpy() for v in vectors()[:2]):
        table = np.zeros((len(x),) * 3)
        for i, j, k in np.ndindex(table.shape):
            if i != j and k != j:
                table[i, j, k] = unit(x[i] - x[j]) @ unit(x[k] - x[j])
        found.append(table)
    assert rkd_angle(*vectors()).item() == pytest.approx(smooth_l1(*found), rel=1e-12)


def test_a_kernel_of_high_order_is_the_gaussian():
    student, teacher, present = vectors()
    exact = []
    for x in (unit(v.numpy()) for v in (student, teacher)):
        exact.append(np.array([[math.exp(-0.7 * ((a - b) ** 2).sum()) for b in x] for a in x]))
    loss = CorrelationCongruence(gamma=0.7, order=20)
    assert loss.relation(0, student, teacher, present).item() == pytest.approx(
        ((exact[0] - exact[1]) ** 2).mean(), rel=1e-10
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_agrees_with_finite_differences(loss):
    student, teacher, present = vectors(4)
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, present), student.requires_grad_())


@pytest.mark.parametrize("loss", LOSSES)
def test_examples_that_relate_alike_cost_nothing_in_whatever_width_scale_and_rotation(loss):
    student, _, present = vectors()
    rotation = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    wider = 3 * torch.nn.functional.pad(student, (0, 3)) @ rotation
    assert loss(student, wider, present).item() == pytest.approx(0, abs=1e-12)
    assert loss(student, wider.flip(0), present).item() > 1e-4


@pytest.mark.parametrize("loss", LOSSES)
def test_examples_that_only_fill_up_the_batch_change_nothing(loss):
    student, teacher, _ = vectors(8)
    present = torch.tensor([True] * 6 + [False] * 2)
    student, teacher = (torch.where(present[:, None], x, 0) for x in (student, teacher))
    assert loss(student, teacher, present).item() == pytest.approx(loss(student[:6], teacher[:6], all_of(6)).item())
    assert loss(student, teacher, ~all_of(8)).item() == 0


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_or_vanishing_examples_give_finite_values_and_gradients(loss):
    for student in (torch.ones(4, 5), torch.zeros(4, 5)):
        student.requires_grad_()
        value = loss(student, torch.randn(4, 8), all_of(4))
        value.backward()
        assert value.isfinite()
        assert student.grad.isfinite().all()


def test_a_kernel_that_sees_nothing_is_refused():
    with pytest.raises(ValueError, match="order 0"):
        CorrelationCongruence(order=0)
