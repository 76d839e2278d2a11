"""The loss on attention maps against NumPy, its gradients, and the promise that a batch may be cut anywhere."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from hf_distill.batch.signals import Batch, Signal
from hf_distill.losses.attention import AttentionTransfer
from hf_distill.models.features import Taps, ensure_eager
from hf_distill.testing import tiny_inputs, tiny_model

KINDS = ["scores_mse", "probabilities_kl"]


def make_batch(inputs, mask=None):
    mask = inputs["attention_mask"].bool() if mask is None else mask
    return Batch(inputs=inputs, extras={}, labels=None, row_labels=None, row_mask=mask, token_mask=mask)


def signals(loss, student, teacher, inputs):
    ensure_eager(student)
    ensure_eager(teacher)
    with torch.no_grad():
        with Taps(student, loss.student_taps).capture() as ours:
            student(**inputs)
        with Taps(teacher, loss.teacher_taps).capture() as theirs:
            teacher(**inputs)
    return Signal(features=ours), Signal(features=theirs)


def numpy_value(kind, student, teacher, visible):
    """One example: scores [h, S, K] of its real tokens, `visible` [S, K]; token by token, as the papers write it."""
    total = 0.0
    for query in range(visible.shape[0]):
        keys = np.flatnonzero(visible[query])
        ours, theirs = student[:, query, keys], teacher[:, query, keys]
        if kind == "scores_mse":
            if len(ours) != len(theirs):
                ours, theirs = ours.mean(0, keepdims=True), theirs.mean(0, keepdims=True)
            total += ((ours - theirs) ** 2).mean()
        else:
            p, q = softmax(theirs, -1), softmax(ours, -1)
            if len(ours) != len(theirs):
                p, q = p.mean(0, keepdims=True), q.mean(0, keepdims=True)
            total += (p * np.log(p / q)).sum(-1).mean()
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert_mlm", "llama"])
@pytest.mark.parametrize("heads", [4, 2])
def test_value_is_the_masked_sum_that_numpy_finds(kind, family, heads):
    student = tiny_model(family, num_attention_heads=heads)
    teacher = tiny_model(family, seed=1, num_hidden_layers=4)
    loss = AttentionTransfer(kind=kind)
    loss.setup(student, teacher, None)
    assert (loss.student_taps, loss.teacher_taps) == (("scores.0", "scores.1"), ("scores.1", "scores.3"))
    inputs = tiny_inputs(student)
    ours, theirs = signals(loss, student, teacher, inputs)
    expected = 0.0
    for mine, other in zip(loss.student_taps, loss.teacher_taps, strict=True):
        for index, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            visible = np.ones((length, length), bool)
            visible = np.tril(visible) if family == "llama" else visible
            scores = (
                signal[index, :, :length, :length].numpy() for signal in (ours.features[mine], theirs.features[other])
            )
            expected += numpy_value(kind, *scores, visible) / 2
    assert loss(ours, theirs, make_batch(inputs)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("heads", ["each", "mean"])
def test_gradient_agrees_with_finite_differences(kind, heads):
    loss = AttentionTransfer(kind=kind, heads=heads, layers=[[0, 0]])
    model = tiny_model("llama")
    loss.setup(model, model, None)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    hidden = torch.ones(3, 3, dtype=torch.bool).triu(1)
    minimum = torch.finfo(torch.float32).min
    teacher = torch.randn(2, 2, 3, 3, dtype=torch.float64).masked_fill(hidden, minimum)

    def value(scores):
        ours = Signal(features={"scores.0": scores.masked_fill(hidden, minimum)})
        return loss(ours, Signal(features={"scores.0": teacher}), make_batch({}, mask))

    assert torch.autograd.gradcheck(value, torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.float32).min, -1e4])
def test_equal_maps_give_zero_and_hidden_keys_never_make_nan(kind, masked):
    loss = AttentionTransfer(kind=kind, layers=[[0, 0]])
    model = tiny_model("llama")
    loss.setup(model, model, None)
    hidden = torch.ones(3, 3, dtype=torch.bool).triu(1)
    scores = torch.randn(2, 4, 3, 3).masked_fill(hidden, masked)
    teacher = Signal(features={"scores.0": scores})
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert loss(teacher, teacher, make_batch({}, mask)).item() == 0
    for kept in (mask, torch.zeros_like(mask)):
        ours = (scores + torch.randn(2, 4, 3, 3)).masked_fill(hidden, masked).requires_grad_()
        value = loss(Signal(features={"scores.0": ours}), teacher, make_batch({}, kept))
        value.backward()
        assert ours.grad.isfinite().all()
        assert (value > 0) == kept.any()
        assert (ours.grad[:, :, 2] == 0).all()  # a query that is padding


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", ["bert_mlm", "llama"])
def test_batch_is_worth_the_sum_of_its_parts_however_they_are_padded(kind, family):
    student, teacher = tiny_model(family), tiny_model(family, seed=1)
    loss = AttentionTransfer(kind=kind)
    loss.setup(student, teacher, None)
    inputs = tiny_inputs(student, num_examples=4)
    together = loss(*signals(loss, student, teacher, inputs), make_batch(inputs))
    parts = 0
    for index in range(4):
        length = int(inputs["attention_mask"][index].sum())
        single = {name: tensor[index : index + 1, :length] for name, tensor in inputs.items()}
        parts += loss(*signals(loss, student, teacher, single), make_batch(single))
    torch.testing.assert_close(together, parts)


def test_images_without_token_mask_count_each_example_once():
    student, teacher = tiny_model("vit"), tiny_model("vit", seed=1)
    loss = AttentionTransfer(kind="probabilities_kl", layers=[[-1, -1]])
    loss.setup(student, teacher, None)
    ours, theirs = signals(loss, student, teacher, tiny_inputs(student))
    mask = torch.tensor([True, False, True])
    p, q = (log_softmax(s.features["scores.1"].numpy()[mask.numpy()], -1) for s in (theirs, ours))
    expected = (np.exp(p) * (p - q)).sum(-1).mean((1, 2)).sum()
    assert loss(ours, theirs, make_batch({}, mask)).item() == pytest.approx(expected, rel=1e-4)


def test_unequal_heads_cannot_be_compared_one_by_one_and_wrong_options_are_errors():
    student, teacher = tiny_model("llama", num_attention_heads=2), tiny_model("llama")
    loss = AttentionTransfer(heads="each")
    loss.setup(student, teacher, None)
    inputs = tiny_inputs(student)
    with pytest.raises(ValueError, match="student block 0 has 2 heads and teacher block 0 has 4"):
        loss(*signals(loss, student, teacher, inputs), make_batch(inputs))
    with pytest.raises(ValueError, match="scores_mse, probabilities_kl"):
        AttentionTransfer(kind="mse")
    with pytest.raises(ValueError, match="auto, each, mean"):
        AttentionTransfer(heads="all")
