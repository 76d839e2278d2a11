"""Row losses on a teacher that was cut to k columns, against the whole distribution written out in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from hf_distill.batch.signals import Rows, SparseRows
from hf_distill.losses import divergences
from hf_distill.losses.engine import RowTerm, row_losses, row_values
from hf_distill.models.heads import Head
from hf_distill.plugins.builtins import ROW_LOSSES

VOCAB, ROWS = 40, 11


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def teacher_logits(seed=0):
    return np.random.default_rng(seed).normal(size=(ROWS, VOCAB)) * 3


def cut(logits, k, *, tail=True, unused=0):
    """The k most likely columns of each row, with `unused` slots more."""
    log_p = log_softmax(logits)
    ids = np.argsort(-log_p, axis=-1)[:, :k]
    kept = np.take_along_axis(log_p, ids, -1)
    with np.errstate(divide="ignore"):
        mass = np.log(np.maximum(1 - np.exp(kept).sum(-1), 0)) if k < VOCAB else np.full(ROWS, -np.inf)
    return SparseRows(
        ids=torch.tensor(np.pad(ids, ((0, 0), (0, unused)), constant_values=VOCAB)),
        log_probs=torch.tensor(np.pad(kept, ((0, 0), (0, unused)), constant_values=-np.inf)),
        tail=torch.tensor(mass if tail else np.full(ROWS, -np.inf)),
        vocab_size=VOCAB,
    )


def written_out(sparse):
    """The distribution that a cut one stands for: what was not kept shares the tail equally."""
    whole = np.zeros((ROWS, VOCAB))
    for row in range(ROWS):
        ids = [i for i in sparse.ids[row].tolist() if i < VOCAB]
        others = [i for i in range(VOCAB) if i not in ids]
        whole[row, others] = np.exp(sparse.tail[row].item()) / max(len(others), 1)
        whole[row, ids] = np.exp(sparse.log_probs[row, : len(ids)].numpy())
    with np.errstate(divide="ignore"):
        return np.log(whole)


def through_engine(teacher, loss, *, temperature=1.0, columns=VOCAB, memory=2**28, observe=False):
    torch.manual_seed(0)
    model = nn.Module()
    model.lm_head = nn.Linear(8, columns, dtype=torch.float64)
    states = torch.randn(ROWS, 8, dtype=torch.float64, requires_grad=True)
    rows = Rows(states=states, head=Head(model, model.lm_head, ()))
    function = loss if callable(loss) else getattr(divergences, loss)
    term = RowTerm("loss", function, 1.0, temperature=temperature)
    result = row_losses(rows, {"teacher": teacher}, [term], memory=memory, observe=observe)
    return result, torch.autograd.grad(result.total, [states, model.lm_head.weight, model.lm_head.bias])


def assert_equal(one, other, tolerance=1e-9):
    torch.testing.assert_close(one[0].total, other[0].total, rtol=tolerance, atol=tolerance)
    for ours, theirs in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("loss", [name for name in ROW_LOSSES if name != "logit_mse"])
def test_a_sparse_teacher_that_keeps_every_column_gives_what_the_dense_one_gives(loss, temperature):
    dense = Rows(logits=torch.tensor(teacher_logits()))
    sparse = cut(teacher_logits(), VOCAB)
    assert_equal(*(through_engine(teacher, loss, temperature=temperature) for teacher in (sparse, dense)))


@pytest.mark.parametrize("unused", [0, 3])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "jsd", "total_variation"])
def test_a_cut_teacher_gives_what_its_distribution_with_the_tail_spread_equally_gives(loss, temperature, unused):
    sparse = cut(teacher_logits(), 6, unused=unused)
    dense = Rows(logits=torch.tensor(written_out(sparse)))
    assert_equal(*(through_engine(teacher, loss, temperature=temperature) for teacher in (sparse, dense)))


@pytest.mark.parametrize("loss", ["forward_kl", "reverse_kl", "skewed_kl"])
def test_a_teacher_without_a_tail_gives_what_a_dense_one_without_the_other_columns_gives(loss):
    sparse = cut(teacher_logits(), 6, tail=False)
    dense = Rows(logits=torch.tensor(written_out(sparse)))
    assert_equal(*(through_engine(teacher, loss) for teacher in (sparse, dense)))


@pytest.mark.parametrize("loss", ["forward_kl", "jsd"])
def test_columns_that_the_student_lacks_are_left_out_of_a_sparse_teacher(loss):
    sparse = cut(teacher_logits(), 6)
    dense = Rows(logits=torch.tensor(written_out(sparse)), vocab_size=30)
    student_rows = (sparse.conditioned(columns=30, temperature=1.0), dense)
    assert_equal(*(through_engine(teacher, loss, columns=30) for teacher in student_rows))


def test_the_closed_form_gives_the_same_in_chunks_and_never_writes_out_the_distribution(monkeypatch):
    called = []
    monkeypatch.setattr(SparseRows, "logits", lambda self: called.append(self))
    whole, chunked = (through_engine(cut(teacher_logits(), 6), "forward_kl", memory=m) for m in (2**28, 4_000))
    assert_equal(whole, chunked)
    assert not called, "the whole distribution was written out"


def test_usual_shortcut_cannot_see_mass_in_the_tail():
    """Ours is KL over all columns; renormalising the student over k gives zero to one that wastes nine tenths."""
    p = 1 / np.arange(1, VOCAB + 1)
    p = p / p.sum()
    k = 5
    head, tail = p[:k].sum(), p[k:].sum()
    q = np.concatenate([p[:k] / head * 0.1, np.full(VOCAB - k, 0.9 / (VOCAB - k))])
    sparse = SparseRows(
        ids=torch.arange(k)[None],
        log_probs=torch.tensor(np.log(p[:k]))[None],
        tail=torch.tensor([np.log(tail)]),
        vocab_size=VOCAB,
    )
    student = torch.tensor(np.log(q))[None].requires_grad_()
    value = divergences.forward_kl.on_sparse(student, sparse)
    # Both tails are flat, so that KL is that of the two masses: head p against 0.1.
    expected = head * np.log(head / 0.1) + tail * np.log(tail / 0.9)
    assert value.item() == pytest.approx(expected, rel=1e-10)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert gradient[0, :k].sum().item() == pytest.approx(0.1 - head, rel=1e-10)

    shortcut = torch.tensor(np.log(q[:k])).log_softmax(-1)
    renormalised = torch.tensor(p[:k] / head)
    assert (renormalised * (renormalised.log() - shortcut)).sum().item() == pytest.approx(0, abs=1e-12)


def test_a_kept_tail_leaves_the_students_tail_alone_where_dropping_it_would_push_it_down():
    log_p = log_softmax(teacher_logits())
    student = torch.tensor(log_p).requires_grad_()  # equal to the teacher
    pushes = {}
    for tail in (True, False):
        value = divergences.forward_kl.on_sparse(
            student, cut(teacher_logits(), 6, tail=tail).conditioned(columns=VOCAB, temperature=1.0)
        )
        (gradient,) = torch.autograd.grad(value.sum(), student)
        others = torch.ones(ROWS, VOCAB, dtype=torch.bool).scatter_(1, cut(teacher_logits(), 6).ids, False)
        pushes[tail] = (gradient * others).sum(-1)
    torch.testing.assert_close(pushes[True], torch.zeros(ROWS, dtype=torch.float64), atol=1e-12, rtol=0)
    mass = cut(teacher_logits(), 6).tail.exp()
    torch.testing.assert_close(pushes[False], mass, atol=1e-12, rtol=1e-9)


def test_a_sparse_teacher_with_its_entropy_stored_is_observed_as_the_dense_one_is():
    sparse = cut(teacher_logits(), 6)
    log_p = log_softmax(teacher_logits())
    sparse.entropy = torch.tensor(-(np.exp(log_p) * log_p).sum(-1))
    dense = Rows(logits=torch.tensor(teacher_logits()))
    ours, theirs = (through_engine(teacher, "forward_kl", observe=True)[0] for teacher in (sparse, dense))
    torch.testing.assert_close(ours.teacher_entropy_sum, theirs.teacher_entropy_sum)
    assert ours.agreement_sum == theirs.agreement_sum


def test_log_probability_of_a_label_outside_k_is_its_share_of_the_tail():
    sparse = cut(teacher_logits(), 6, unused=2)
    labels = torch.arange(ROWS) * 3
    expected = np.take_along_axis(written_out(sparse), labels.numpy()[:, None], -1)[:, 0]
    np.testing.assert_allclose(sparse.log_probs_of(labels), expected, rtol=1e-12)


def test_values_by_row_of_a_sparse_teacher_are_those_of_its_closed_form():
    student, sparse = torch.tensor(teacher_logits(seed=1)), cut(teacher_logits(), 6)
    (values,) = row_values(Rows(logits=student), sparse, [divergences.forward_kl])
    torch.testing.assert_close(values, divergences.forward_kl.on_sparse(student, sparse))
