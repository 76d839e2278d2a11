"""The engine's precision and memory: half precision, autocast, finite differences, peaks."""

from __future__ import annotations

import pytest
import torch

from hf_distill.losses import divergences
from hf_distill.losses.engine import RowTerm, row_losses

from .engine_cases import (
    SMALL,
    STUDENTS,
    Case,
    Learned,
    linear_head,
    mixture,
    peft_warns,
    plugin,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-7], ids=["scale 1", "tiny scale"])
def test_half_precision_multiplies_in_half_and_compares_in_float32(dtype, scale):
    case = Case.of(linear_head(12, bias=True, dtype=dtype), dtype=dtype)
    terms = [RowTerm("kl", divergences.forward_kl, scale), RowTerm("plugin", plugin, scale, temperature=2.0)]
    result, _ = case.engine(terms)
    total, _, _ = case.reference(terms)
    assert {value.dtype for value in result.sums.values()} == {torch.float32}
    torch.testing.assert_close(result.total, total, rtol=2e-3, atol=0)
    # What autocast's scaler multiplies the loss with reaches gradients that would vanish in half precision.
    result = row_losses(case.student, case.teachers, terms, labels=case.labels, memory=SMALL)
    gradients = torch.autograd.grad(result.total * (1 / scale), case.leaves)
    terms = [RowTerm(term.name, term.function, 1.0, term.temperature) for term in terms]
    for gradient, reference in zip(gradients, case.reference(terms)[2], strict=True):
        assert gradient.dtype == dtype
        assert (gradient.float() - reference.float()).norm() <= 0.02 * reference.float().norm()


def test_heads_multiply_in_the_type_of_autocast():
    case = Case.of(linear_head(12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result, gradients = case.engine(mixture())
        logits = case.student.head.project(case.student.states)
    assert logits.dtype == torch.bfloat16
    exact, expected = case.engine(mixture())
    assert result.total != exact.total
    torch.testing.assert_close(result.total, exact.total, rtol=0.02, atol=0)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == torch.float32
        assert (gradient - reference).norm() <= 0.03 * reference.norm()


@peft_warns
@pytest.mark.parametrize("student", ["plain", "soft-cap", "lora on the head"])
def test_gradients_are_those_of_finite_differences(student):
    head = STUDENTS[student]()
    head.model.double()
    case = Case.of(head, num_rows=3, dtype=torch.float64)
    learned = Learned().double()
    terms = [
        RowTerm("kl", divergences.reverse_kl, 0.2, temperature=2.0),
        RowTerm("learned", learned, 0.3),
        RowTerm("task", divergences.cross_entropy, 0.4, teachers=()),
    ]
    inputs = (*case.leaves, learned.gain)

    def loss(*_):
        return row_losses(case.student, case.teachers, terms, labels=case.labels, memory=1).total

    assert torch.autograd.gradcheck(loss, inputs, fast_mode=True)


def peak_bytes(function):
    """The most bytes that tensors held at a time while `function` ran, beyond those before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held, peak = 0, 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    assert kept is not None
    return peak


@pytest.mark.parametrize("function", [divergences.forward_kl, plugin], ids=["closed form", "autograd"])
def test_memory_does_not_grow_with_the_number_of_rows(function):
    columns, memory = 5000, 8 * 2**20

    def extra(num_rows):
        case = Case.of(linear_head(8, columns), num_rows=num_rows, teacher=linear_head(8, columns, seed=1))
        terms = [RowTerm("loss", function, 1.0)]
        peak = peak_bytes(lambda: row_losses(case.student, case.teachers, terms, memory=memory).total)
        fixed = case.student.head.weight.nbytes + case.student.states.nbytes  # the gradients themselves
        return peak - fixed

    few, many = extra(1000), extra(4000)
    assert many <= memory
    assert many <= few * 1.1
    assert 4000 * columns * 4 > 5 * many  # one whole copy of the logits would not have fitted
