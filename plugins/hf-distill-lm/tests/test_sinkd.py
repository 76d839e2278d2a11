"""SinKD against NumPy, exact transport and the values of the authors' code."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.sinkd import SinKD, transport_cost
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp, softmax

from hf_distill import Batch, Rows, Signal
from hf_distill.testing import conformance


def in_numpy(student, teacher, batch):
    q, p = (softmax(logits(signal, batch.row_mask) / 2, -1) for signal in (student, teacher))
    cost = np.abs(q[:, None] - p[None]).sum(-1)
    log_plan = -cost / 0.1
    for _ in range(20):
        log_plan -= logsumexp(log_plan, axis=1, keepdims=True)
        log_plan -= logsumexp(log_plan, axis=0, keepdims=True)
    return (np.exp(log_plan) * cost).sum()


def logits(signal, mask):
    rows = signal.rows.select(mask)
    return (rows.logits if rows.head is None else rows.states @ rows.head.weight.double().T).detach().numpy()


LACKS = {
    "zero_at_equality": "the entropy of the plan leaves a cost where the models agree",
    "no_host_sync": "the rows that count are chosen, and their number must be known",
    "cut_invariance": "a plan is made within a micro-batch, and another cut makes another plan",
}
test_conformance = conformance("sinkd", plugins=["lm"], reference=in_numpy, lacks=LACKS)
test_conformance_of_classifiers = conformance(
    "sinkd",
    plugins=["lm"],
    reference=in_numpy,
    lacks=LACKS,
    student={"family": "bert_classifier", "seed": 1},
    teacher={"family": "bert_classifier", "seed": 2},
)


def test_values_are_those_of_the_authors_code_before_its_factor(waves):
    q, p = (waves(phase).div(2).softmax(-1) for phase in (0.0, 1.0))
    assert transport_cost(q, p, epsilon=0.1, num_iterations=20).item() == pytest.approx(2.907290692358335, rel=1e-9)
    assert transport_cost(q, q, epsilon=0.1, num_iterations=20).item() == pytest.approx(0.015593598603349, rel=1e-9)


def test_with_little_entropy_it_is_the_cheapest_assignment():
    """The authors' exp(-W / epsilon) underflows here, to quotients of zeros; logarithms do not."""
    q, p = (torch.randn(12, 6).double().mul(2).softmax(-1).requires_grad_() for _ in range(2))
    found = transport_cost(q, p, epsilon=1e-3, num_iterations=2000)
    cost = torch.cdist(q, p, p=1).detach().numpy()
    assert found.item() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), rel=1e-3)
    assert torch.autograd.grad(found, q)[0].isfinite().all()


def signals(num_rows=10, columns=7):
    student = torch.randn(num_rows, columns).double().requires_grad_()
    teacher = torch.randn(num_rows, columns).double()
    mask = torch.ones(num_rows, dtype=torch.bool)
    batch = Batch(inputs={}, extras={}, labels=None, row_labels=None, row_mask=mask, token_mask=mask)
    return student, Signal(rows=Rows(logits=student)), Signal(rows=Rows(logits=teacher)), batch


def test_groups_are_transported_one_by_one():
    student, ours, theirs, batch = signals()
    found = SinKD(group_size=4)(ours, theirs, batch)
    parts = []
    for start in (0, 4, 8):
        q, p = (signal.rows.logits[start : start + 4].div(2).softmax(-1) for signal in (ours, theirs))
        parts.append(transport_cost(q, p, epsilon=0.1, num_iterations=20))
    torch.testing.assert_close(found, sum(parts))
    gradients = [torch.autograd.grad(x, student)[0] for x in (found, sum(parts))]
    torch.testing.assert_close(*gradients)


def test_the_order_of_the_teachers_rows_does_not_matter_within_a_group():
    """What sets it apart from losses that compare row by row."""
    _, ours, theirs, batch = signals()
    turned = Signal(rows=Rows(logits=theirs.rows.logits.flip(0)))
    torch.testing.assert_close(SinKD()(ours, theirs, batch), SinKD()(ours, turned, batch))


def test_heads_of_different_sizes_are_an_error():
    _, ours, _, batch = signals()
    with pytest.raises(ValueError, match="student predicts 7 columns, the teacher 8"):
        SinKD()(ours, Signal(rows=Rows(logits=torch.zeros(10, 8))), batch)


@pytest.mark.parametrize(
    "options", [{"epsilon": 0}, {"softmax_temperature": -1}, {"num_iterations": 0}, {"group_size": 1}]
)
def test_an_option_out_of_its_range_is_an_error(options):
    with pytest.raises(ValueError, match="expected"):
        SinKD(**options)
