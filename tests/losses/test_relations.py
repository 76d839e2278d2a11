"""MiniLMv2's relations against NumPy, their gradients, and the promise that a batch may be cut anywhere."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from hf_distill.batch.signals import Batch, Signal
from hf_distill.losses.relations import MiniLMRelations
from hf_distill.models.features import Taps
from hf_distill.testing import tiny_inputs, tiny_model


def make_batch(inputs, mask=None):
    mask = inputs["attention_mask"].bool() if mask is None else mask
    return Batch(inputs=inputs, extras={}, labels=None, row_labels=None, row_mask=mask, token_mask=mask)


def signals(loss, student, teacher, inputs):
    with torch.no_grad():
        with Taps(student, loss.student_taps).capture() as ours:
            student(**inputs)
        with Taps(teacher, loss.teacher_taps).capture() as theirs:
            teacher(**inputs)
    return Signal(features=ours), Signal(features=theirs)


def numpy_relation(vectors, num_relation_heads, causal):
    """[h, S, d] to probabilities [R, S, S], one head at a time."""
    num_heads, num_tokens, width = vectors.shape
    joined = np.concatenate([vectors[head] for head in range(num_heads)], axis=-1)
    size = num_heads * width // num_relation_heads
    relations = []
    for head in range(num_relation_heads):
        part = joined[:, head * size : (head + 1) * size]
        products = part @ part.T / np.sqrt(size)
        if causal:
            products[np.triu_indices(num_tokens, 1)] = -np.inf
        relations.append(softmax(products, -1))
    return np.stack(relations)


@pytest.mark.parametrize("family", ["bert_mlm", "llama"])
@pytest.mark.parametrize("causal", [False, True])
def test_value_is_the_masked_sum_that_numpy_finds_for_unequal_widths_and_heads(family, causal):
    student = tiny_model(family)
    teacher = tiny_model(family, seed=1, num_hidden_layers=4, hidden_size=64, num_attention_heads=8)
    loss = MiniLMRelations(num_relation_heads=8, teacher_layer=2, causal=causal)
    loss.setup(student, teacher, None)
    assert loss.student_taps == ("query.1", "key.1", "value.1")
    assert loss.teacher_taps == ("query.2", "key.2", "value.2")
    inputs = tiny_inputs(student)
    ours, theirs = signals(loss, student, teacher, inputs)
    expected = 0.0
    for mine, other in zip(loss.student_taps, loss.teacher_taps, strict=True):
        for index, length in enumerate(inputs["attention_mask"].sum(1).tolist()):
            q, p = (
                numpy_relation(vectors[index, :, :length].double().numpy(), 8, causal)
                for vectors in (ours.features[mine], theirs.features[other])
            )
            terms = p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1))
            expected += terms.sum() / (8 * 3)
    assert expected > 0.1
    assert loss(ours, theirs, make_batch(inputs)).item() == pytest.approx(expected, rel=1e-4)


def loss_and_features(num_relation_heads=2, **options):
    loss = MiniLMRelations(num_relation_heads=num_relation_heads, **options)
    model = tiny_model("llama")
    loss.setup(model, model, None)
    return loss, {name: torch.randn(2, 4, 3, 6, dtype=torch.float64) for name in loss.teacher_taps}


@pytest.mark.parametrize("causal", [False, True])
def test_gradient_agrees_with_finite_differences(causal):
    loss, theirs = loss_and_features(causal=causal)
    mask = torch.tensor([[True, True, False], [True, False, False]])

    def value(*vectors):
        ours = Signal(features=dict(zip(loss.student_taps, vectors, strict=True)))
        return loss(ours, Signal(features=theirs), make_batch({}, mask))

    vectors = [torch.randn(2, 2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    assert torch.autograd.gradcheck(value, vectors)


def test_equal_vectors_give_zero_and_no_tokens_give_zero_with_finite_gradients():
    loss, theirs = loss_and_features()
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert loss(Signal(features=theirs), Signal(features=theirs), make_batch({}, mask)).item() == 0
    ours = {name: torch.randn_like(tensor).requires_grad_() for name, tensor in theirs.items()}
    empty = loss(Signal(features=ours), Signal(features=theirs), make_batch({}, torch.zeros_like(mask)))
    empty.backward()
    assert empty.item() == 0
    assert all((tensor.grad == 0).all() for tensor in ours.values())


def test_padding_changes_nothing_as_a_token_that_relates_or_is_related_to():
    loss, theirs = loss_and_features()
    ours = {name: torch.randn_like(tensor) for name, tensor in theirs.items()}
    mask = torch.tensor([[True, True, False], [True, True, True]])

    def value():
        return loss(Signal(features=ours), Signal(features=theirs), make_batch({}, mask))

    before = value()
    for tensor in (*ours.values(), *theirs.values()):
        tensor[0, :, 2] += 5
    assert torch.equal(value(), before)


@pytest.mark.parametrize("family", ["bert_mlm", "gpt2"])
def test_batch_is_worth_the_sum_of_its_parts_however_they_are_padded(family):
    student, teacher = tiny_model(family), tiny_model(family, seed=1)
    loss = MiniLMRelations(num_relation_heads=8)
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
    loss, theirs = loss_and_features()
    ours = {name: torch.randn_like(tensor) for name, tensor in theirs.items()}
    one = loss(Signal(features=ours), Signal(features=theirs), make_batch({}, torch.tensor([True, False])))
    tokens = torch.tensor([[True] * 3, [False] * 3])
    torch.testing.assert_close(one, loss(Signal(features=ours), Signal(features=theirs), make_batch({}, tokens)) / 3)


def test_relation_heads_that_do_not_divide_the_width_are_an_error():
    loss, theirs = loss_and_features(num_relation_heads=5)
    with pytest.raises(ValueError, match="num_relation_heads is 5 and does not divide the width 24"):
        loss(Signal(features=theirs), Signal(features=theirs), make_batch({}, torch.ones(2, 3, dtype=torch.bool)))
