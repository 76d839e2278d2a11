"""Sums over rows and functions of log-probabilities against plain autograd, for vocabularies of different sizes."""

from __future__ import annotations

import pytest
import torch

from hf_distill import Rows, SparseRows, differentiable_log_probs, log_probs_of, weighted_row_sum
from hf_distill.models.heads import Head
from hf_distill.testing import tiny_model

NUM_ROWS = 11


def rows(vocab_size, *, seed, with_head=True):
    model = tiny_model("llama", seed=seed, vocab_size=vocab_size).double()
    states = torch.randn(NUM_ROWS, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    states.requires_grad_()
    head = Head.of(model)
    return Rows(states=states, head=head) if with_head else Rows(logits=model.lm_head(states))


def logits_of(given):
    return given.logits if given.head is None else given.head.project(given.states)


def spread_gap(student_logits, teacher_logits):
    """Something that needs all columns of both, which are not the same."""
    return (student_logits.logsumexp(-1) - student_logits.mean(-1)) * teacher_logits.logsumexp(-1)


@pytest.mark.parametrize("with_head", [True, False])
def test_a_function_of_rows_sees_every_column_of_both_vocabularies(with_head):
    student, teacher = rows(50, seed=1, with_head=with_head), rows(80, seed=2)
    weights = torch.linspace(0, 2, NUM_ROWS, dtype=torch.float64)
    found = weighted_row_sum(spread_gap, student, teacher, weights=weights)
    expected = (spread_gap(logits_of(student), logits_of(teacher).detach()) * weights).sum()
    torch.testing.assert_close(found, expected)
    leaves = [student.tensor] if with_head else [student.logits]
    for ours, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_sparse_teacher_of_a_larger_vocabulary_keeps_all_its_columns():
    student = rows(20, seed=1)
    log_probs = logits_of(rows(30, seed=2)).detach().log_softmax(-1)
    values, ids = log_probs.topk(30)
    kept = SparseRows(ids, values, tail=torch.full((NUM_ROWS,), -torch.inf), vocab_size=30)

    def squares(student_logits, teacher_logits):
        return teacher_logits.exp().square().sum(-1) + student_logits.softmax(-1).sum(-1)

    found = weighted_row_sum(squares, student, kept, weights=torch.ones(NUM_ROWS, dtype=torch.float64))
    torch.testing.assert_close(found, log_probs.exp().square().sum() + NUM_ROWS)


def test_a_function_of_several_rows_at_once_gets_the_gradient_of_autograd():
    student = rows(50, seed=1)
    labels = torch.arange(NUM_ROWS) * 4

    def pairs(log_q):  # products of neighbours: the gradient of one row depends on the other
        return (log_q[1:] * log_q[:-1]).sum() + log_q.exp().sum()

    found = differentiable_log_probs(pairs, student, labels)
    expected = pairs(logits_of(student).log_softmax(-1)[torch.arange(NUM_ROWS), labels])
    torch.testing.assert_close(found, expected)
    leaves = [student.states, student.head.weight]
    for ours, theirs in zip(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        log_probs_of(student, labels), logits_of(student).log_softmax(-1)[torch.arange(NUM_ROWS), labels].detach()
    )


def test_no_rows_give_a_sum_of_zero_that_stays_connected_to_the_head():
    student = rows(50, seed=1)
    empty = Rows(states=student.states[:0], head=student.head)
    total = differentiable_log_probs(lambda log_q: log_q.sum(), empty, torch.zeros(0, dtype=torch.long))
    assert total.item() == 0.0
    assert not torch.autograd.grad(total, student.head.weight)[0].any()
    assert not weighted_row_sum(spread_gap, empty, empty, weights=torch.zeros(0)).item()


def test_evaluation_without_gradients_gives_the_value_alone():
    student = rows(50, seed=1)
    with torch.no_grad():
        total = differentiable_log_probs(lambda log_q: log_q.sum(), student, torch.zeros(NUM_ROWS, dtype=torch.long))
    assert not total.requires_grad
    torch.testing.assert_close(total, logits_of(student).log_softmax(-1)[:, 0].sum().detach())
