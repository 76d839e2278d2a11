"""Losses on hidden states against NumPy, their gradients, and the promise that a batch may be cut anywhere."""

import numpy as np
import pytest
import torch

from hf_distill.batch.signals import Batch, Signal
from hf_distill.losses.hidden import HiddenCosine, HiddenMSE
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


def run(loss, student, teacher, inputs, mask=None):
    return loss(*signals(loss, student, teacher, inputs), make_batch(inputs, mask))


def numpy_distance(loss, student, teacher):
    if isinstance(loss, HiddenCosine) or loss.normalize:
        student = student / np.linalg.norm(student, axis=-1, keepdims=True)
        teacher = teacher / np.linalg.norm(teacher, axis=-1, keepdims=True)
        cosine = 1 - (student * teacher).sum(-1)
        return cosine if isinstance(loss, HiddenCosine) else 2 * cosine
    return ((student - teacher) ** 2).mean(-1)


LOSSES = [HiddenMSE, lambda **options: HiddenMSE(normalize=True, **options), HiddenCosine]


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("width", [32, 48])
def test_value_is_the_masked_sum_that_numpy_finds(make, width):
    student = tiny_model("bert_mlm", num_hidden_layers=2)
    teacher = tiny_model("bert_mlm", num_hidden_layers=4, hidden_size=width, seed=1)
    loss = make(embeddings=True)
    torch.manual_seed(3)
    loss.setup(student, teacher, None)
    inputs = tiny_inputs(student)
    ours, theirs = signals(loss, student, teacher, inputs)
    assert loss.student_taps == ("hidden.0", "hidden.1", "hidden.2")
    assert loss.teacher_taps == ("hidden.0", "hidden.2", "hidden.4")
    expected = 0.0
    for pair in range(3):
        hidden = ours.features[loss.student_taps[pair]].numpy()
        if width != 32:
            hidden = hidden @ loss.projections[pair].weight.detach().numpy().T
        values = numpy_distance(loss, hidden, theirs.features[loss.teacher_taps[pair]].numpy())
        expected += values[inputs["attention_mask"].bool().numpy()].sum() / 3
    assert loss(ours, theirs, make_batch(inputs)).item() == pytest.approx(expected, rel=1e-5)
    assert loss.count(make_batch(inputs)) == inputs["attention_mask"].sum()


@pytest.mark.parametrize("make", LOSSES)
def test_gradient_agrees_with_finite_differences(make):
    loss = make(projection="linear")
    student, teacher = tiny_model("llama", hidden_size=16), tiny_model("llama", hidden_size=24, num_attention_heads=4)
    loss.setup(student, teacher, None)
    loss = loss.double()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    theirs = {name: torch.randn(2, 3, 24, dtype=torch.float64) for name in loss.teacher_taps}

    def value(first, second, weight):
        loss.projections[0].weight.data = weight.data
        ours = Signal(features=dict(zip(loss.student_taps, (first, second), strict=True)))
        return torch.func.functional_call(
            loss, {"projections.0.weight": weight}, (ours, Signal(features=theirs), make_batch({}, mask))
        )

    hidden = [torch.randn(2, 3, 16, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    weight = torch.randn(24, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(value, (*hidden, weight))


def test_shared_projection_is_one_tensor_that_serves_every_pair():
    student, teacher = tiny_model("llama"), tiny_model("llama", hidden_size=48)
    loss = HiddenMSE(shared_projection=True)
    loss.setup(student, teacher, None)
    assert list(loss.state_dict()) == ["projections.0.weight"]  # a tensor under two names could not be saved
    loss.projections[0].weight.data.zero_()
    inputs = tiny_inputs(student)
    ours, theirs = signals(loss, student, teacher, inputs)
    mask = inputs["attention_mask"].bool()
    expected = sum(hidden[mask].square().mean(-1).sum() for hidden in theirs.features.values()) / 2
    torch.testing.assert_close(loss(ours, theirs, make_batch(inputs)), expected)


@pytest.mark.parametrize("make", LOSSES)
def test_equal_models_give_zero_and_no_tokens_give_zero_with_finite_gradients(make):
    model = tiny_model("gpt2")
    loss = make()
    loss.setup(model, model, None)
    inputs = tiny_inputs(model)
    assert run(loss, model, model, inputs).item() == pytest.approx(0, abs=1e-4)
    ours, theirs = signals(loss, model, model, inputs)
    for name, tensor in ours.features.items():
        ours.features[name] = tensor.requires_grad_()
    empty = loss(ours, theirs, make_batch(inputs, torch.zeros_like(inputs["attention_mask"], dtype=torch.bool)))
    assert empty.item() == 0
    empty.backward()
    assert all((tensor.grad == 0).all() for tensor in ours.features.values())


@pytest.mark.parametrize("make", LOSSES)
@pytest.mark.parametrize("family", ["bert_mlm", "llama", "t5"])
def test_batch_is_worth_the_sum_of_its_parts_however_they_are_padded(make, family):
    student, teacher = tiny_model(family), tiny_model(family, seed=1, num_hidden_layers=3)
    loss = make(stack="encoder") if family == "t5" else make()
    loss.setup(student, teacher, None)
    inputs = tiny_inputs(student, num_examples=4)
    together = run(loss, student, teacher, inputs)
    parts = 0
    for index in range(4):
        length = int(inputs["attention_mask"][index].sum())
        single = {
            name: tensor[index : index + 1, : None if name.startswith("decoder") else length]
            for name, tensor in inputs.items()
        }
        parts += run(loss, student, teacher, single)
    torch.testing.assert_close(together, parts)


def test_padding_with_nan_in_it_does_not_reach_value_or_gradient():
    loss = HiddenCosine()
    model = tiny_model("llama")
    loss.setup(model, model, None)
    mask = torch.tensor([[True, False]])
    hidden = torch.randn(1, 2, 32)
    hidden[:, 1] = torch.nan
    ours = {name: hidden.clone().requires_grad_() for name in loss.student_taps}
    theirs = {name: torch.randn(1, 2, 32) for name in loss.teacher_taps}
    value = loss(Signal(features=ours), Signal(features=theirs), make_batch({}, mask))
    value.backward()
    assert value.isfinite()
    assert all(tensor.grad.isfinite().all() for tensor in ours.values())


def test_images_without_token_mask_count_each_example_once():
    student, teacher = tiny_model("vit"), tiny_model("vit", seed=1)
    loss = HiddenMSE(layers=[[-1, -1]])
    loss.setup(student, teacher, None)
    inputs = tiny_inputs(student)
    mask = torch.tensor([True, False, True])
    ours, theirs = signals(loss, student, teacher, inputs)
    difference = (ours.features["hidden.2"] - theirs.features["hidden.2"])[mask].numpy()
    value = loss(ours, theirs, make_batch(inputs, mask))
    assert value.item() == pytest.approx((difference**2).mean((1, 2)).sum(), rel=1e-5)
    assert loss.count(make_batch(inputs, mask)) == 2


def test_encoder_is_masked_by_the_encoders_own_mask_and_filling_examples_do_not_count():
    student, teacher = tiny_model("t5"), tiny_model("t5", seed=1)
    loss = HiddenMSE(stack="encoder")
    loss.setup(student, teacher, None)
    assert loss.student_taps == ("encoder.hidden.1", "encoder.hidden.2")
    inputs = tiny_inputs(student)
    decoder_mask = torch.ones_like(inputs["decoder_input_ids"], dtype=torch.bool)
    decoder_mask[2] = False
    batch = make_batch(inputs, decoder_mask)
    assert loss.count(batch) == inputs["attention_mask"][:2].sum()
    decoder = HiddenMSE()
    decoder.setup(student, teacher, None)
    assert decoder.student_taps == ("decoder.hidden.1", "decoder.hidden.2")
    assert decoder.count(batch) == decoder_mask.sum()


def test_bfloat16_features_are_compared_in_float32_under_autocast_too():
    student, teacher = tiny_model("llama"), tiny_model("llama", hidden_size=48)
    loss = HiddenMSE()
    loss.setup(student, teacher, None)
    torch.manual_seed(0)
    ours = Signal(features={name: torch.randn(1, 4, 32).bfloat16() for name in loss.student_taps})
    theirs = Signal(features={name: torch.randn(1, 4, 48).bfloat16() for name in loss.teacher_taps})
    batch = make_batch({}, torch.ones(1, 4, dtype=torch.bool))
    plain = loss(ours, theirs, batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(ours, theirs, batch), plain)
    assert plain.dtype == torch.float32


def test_projections_are_made_where_widths_differ_or_on_request_and_can_be_shared():
    student, wide, same = tiny_model("llama"), tiny_model("llama", hidden_size=48), tiny_model("llama", seed=1)

    def widths(teacher, **options):
        loss = HiddenMSE(**options)
        loss.setup(student, teacher, None)
        return [tuple(parameter.shape) for parameter in loss.parameters()]

    assert widths(same) == []
    assert widths(same, projection="linear") == [(32, 32)] * 2
    assert widths(wide) == [(48, 32)] * 2
    assert widths(wide, shared_projection=True) == [(48, 32)]
    assert widths(same, shared_projection=True) == []
    with pytest.raises(ValueError, match="student is 32 wide and the teacher 48"):
        widths(wide, projection="none")
    with pytest.raises(ValueError, match="expected one of auto, linear, none"):
        widths(wide, projection="mlp")


def test_missing_teacher_model_and_different_tokens_are_errors():
    model = tiny_model("llama")
    loss = HiddenMSE()
    with pytest.raises(ValueError, match="HiddenMSE compares features: it needs a teacher model"):
        loss.setup(model, None, None)
    loss.setup(model, model, None)
    ours = Signal(features={name: torch.randn(1, 4, 32) for name in loss.student_taps})
    theirs = Signal(features={name: torch.randn(1, 5, 32) for name in loss.teacher_taps})
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(1, 5\).*same tokens"):
        loss(ours, theirs, make_batch({}, torch.ones(1, 4, dtype=torch.bool)))
