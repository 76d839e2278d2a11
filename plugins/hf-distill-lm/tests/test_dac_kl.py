"""DAC-KL against NumPy and the forward KL that it cuts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.dac_kl import DACKL
from scipy.special import expit, log_softmax
from torch import nn

from hf_distill import forward_kl
from hf_distill.testing import conformance


def make(**options):
    loss = DACKL(**options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        loss.setup(nn.Identity(), None, None)
    return loss


def in_numpy(student, teacher, labels, network=None, num_classes=64):
    """Row by row, with loops; the network is the one that the kit sets up."""
    network = network or make(num_classes=num_classes)
    values = []
    for own, its, label in zip(log_softmax(student, -1), log_softmax(teacher, -1), labels, strict=True):
        order = np.argsort(-its)[:num_classes]
        p, q = np.exp(its[order]), np.exp(own[order])
        seen = np.concatenate([np.pad(x, (0, num_classes - len(order))) for x in (p, q)])
        hidden = np.maximum(weight(network.hidden) @ seen + bias(network.hidden), 0)
        width, low = expit(weight(network.ends) @ hidden + bias(network.ends))
        width = network.least_mass + (1 - network.least_mass) * width
        low = (1 - width) * low
        total, above = 0.0, 0.0
        for place, word in enumerate(order):
            middle = above + p[place] / 2
            share = expit((middle - low) / network.sharpness) * expit((low + width - middle) / network.sharpness)
            total += (1.0 if place == 0 or word == label else share) * term(its[word], own[word])
            above += p[place]
        if label not in order and label >= 0:
            total += term(its[label], own[label])
        values.append(total)
    return np.array(values)


def term(log_p, log_q):
    return np.exp(log_p) * (log_p - log_q) - np.exp(log_p) + np.exp(log_q)


def weight(layer):
    return layer.weight.detach().double().numpy()


def bias(layer):
    return layer.bias.detach().double().numpy()


LACKS = {"finite_difference_gradient": "what the network sees of the student is a constant"}
test_conformance = conformance("dac_kl", plugins=["lm"], reference=in_numpy, lacks=LACKS)
test_conformance_with_few_classes = conformance(
    "dac_kl",
    plugins=["lm"],
    options={"num_classes": 8, "width": 16},
    reference=lambda *logits, labels: in_numpy(
        *logits, labels=labels, network=make(num_classes=8, width=16), num_classes=8
    ),
    lacks=LACKS,
)


def test_the_students_gradient_is_that_of_finite_differences_with_the_choice_held():
    """Else a student could lower the value by making the network choose less."""
    loss = make(num_classes=8).double()
    student, teacher, labels = torch.randn(4, 12).double(), torch.randn(4, 12).double(), torch.tensor([1, 11, -100, 3])
    with torch.no_grad():
        p = teacher.softmax(-1).topk(8).values
        ids = teacher.topk(8).indices
        held = loss._weights(p, student.softmax(-1).gather(1, ids))
    (found,) = torch.autograd.grad(loss(leaf := student.clone().requires_grad_(), teacher, labels).sum(), leaf)
    loss._weights = lambda p, q: held
    assert torch.autograd.gradcheck(lambda x: loss(x, teacher, labels), (leaf,))
    (expected,) = torch.autograd.grad(loss(leaf, teacher, labels).sum(), leaf)
    torch.testing.assert_close(found, expected)


def test_with_the_whole_interval_it_is_the_forward_kl():
    loss = make(num_classes=20, least_mass=0.999999, sharpness=1e-7).double()
    student, teacher = torch.randn(6, 20).double().requires_grad_(), torch.randn(6, 20).double() * 2
    values = loss(student, teacher, torch.randint(0, 20, (6,)))
    torch.testing.assert_close(values, forward_kl(student, teacher), rtol=1e-4, atol=1e-5)


def test_no_choice_of_the_network_makes_a_value_negative_or_leaves_out_the_label_and_the_best_word():
    student, teacher = torch.randn(50, 30) * 3, torch.randn(50, 30) * 3
    labels = torch.randint(0, 30, (50,))
    loss = make(num_classes=10, least_mass=0.0)
    for ends in ([-50.0, 50.0], [-50.0, -50.0], [50.0, 0.0]):
        with torch.no_grad():
            loss.ends.bias.copy_(torch.tensor(ends))
            loss.ends.weight.zero_()
        values = loss(student, teacher, labels)
        log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
        best = teacher.argmax(-1)
        always = term_of(log_p, log_q, best) + torch.where(best == labels, 0.0, term_of(log_p, log_q, labels))
        assert (values >= always - 1e-5).all()


def term_of(log_p, log_q, words):
    p, q = (x.gather(1, words[:, None])[:, 0] for x in (log_p, log_q))
    return p.exp() * (p - q) - p.exp() + q.exp()


def test_training_the_network_lowers_the_value_and_reaches_all_its_parameters():
    """All parameters get a gradient, and steps along it lower the value, which the student's logits do not change."""
    loss = make(num_classes=10)
    student, teacher, labels = torch.randn(40, 12), torch.randn(40, 12) * 2, torch.randint(0, 12, (40,))
    optimizer = torch.optim.Adam(loss.parameters(), lr=0.02)
    values = []
    for _ in range(30):
        value = loss(student, teacher, labels).mean()
        optimizer.zero_grad()
        value.backward()
        assert all(parameter.grad.abs().sum() > 0 for parameter in loss.parameters())
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]


def test_words_that_the_teacher_excludes_give_finite_values():
    loss, student = make(num_classes=10), torch.randn(4, 12, requires_grad=True)
    teacher = torch.randn(4, 12).masked_fill(torch.arange(12) > 4, -torch.inf)
    values = loss(student, teacher, torch.tensor([11, 0, -100, 3]))
    values.sum().backward()
    assert values.isfinite().all()
    assert student.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


@pytest.mark.parametrize("options", [{"num_classes": 0}, {"width": 0}, {"least_mass": 1.0}, {"sharpness": 0}])
def test_an_option_out_of_its_range_is_an_error(options):
    with pytest.raises(ValueError, match="expected"):
        DACKL(**options)
