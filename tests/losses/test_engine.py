"""The engine against the same losses on whole logits, by ordinary autograd."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy as reference_cross_entropy

from hf_distill.batch.signals import Rows
from hf_distill.losses import divergences
from hf_distill.losses.engine import RowTerm, row_losses, row_values
from hf_distill.models.heads import Head
from hf_distill.testing import tiny_inputs, tiny_model

from .engine_cases import (
    SMALL,
    STUDENTS,
    VOCAB,
    Case,
    assert_same,
    linear_head,
    mixture,
    model_head,
    owned,
    peft_warns,
    plugin,
    weighed_by_label,
)


@pytest.mark.parametrize("student", STUDENTS)
@peft_warns
def test_every_head_gives_what_whole_logits_give(student):
    assert_same(Case.of(STUDENTS[student]()), mixture())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "logit_mse"])
def test_divergences_at_several_temperatures_give_what_whole_logits_give(name, temperature):
    terms = [RowTerm(name, getattr(divergences, name), 1.0, temperature=temperature)]
    assert_same(Case.of(linear_head(12)), terms)


def test_teachers_of_other_widths_give_what_whole_logits_give_and_the_head_is_not_called():
    case = Case.of(linear_head(12), small=linear_head(8, bias=True, seed=3), capped=model_head("gemma2", seed=4))
    terms = [
        RowTerm("a", divergences.forward_kl, 0.1, temperature=2.0, teachers=("small",)),
        RowTerm("b", divergences.reverse_kl, 0.2, teachers=("capped",)),
        RowTerm("c", plugin, 0.3, temperature=4.0, teachers=("capped",)),
    ]
    projected = []
    case.student.head.module.register_forward_hook(lambda *_: projected.append(1))
    assert_same(case, terms)
    assert len(projected) == 1  # by the reference; the engine multiplies by the weight itself


@pytest.mark.parametrize("tail", [False, True], ids=["plain", "soft-cap"])
def test_padded_columns_do_not_count(tail):
    student = model_head("gemma2", vocab_size=72) if tail else linear_head(12, 72)
    case = Case.of(student, teacher=linear_head(20, 80, seed=2), vocab_size=VOCAB)
    terms = [RowTerm("kl", divergences.reverse_kl, 1.0), RowTerm("plugin", plugin, 0.5, temperature=2.0)]
    assert_same(case, terms, columns=VOCAB)
    weight_gradient = case.engine(terms)[1][1]
    assert not weight_gradient[VOCAB:].any()
    assert weight_gradient[:VOCAB].any()


def test_the_task_keeps_columns_that_the_teacher_lacks():
    case = Case.of(linear_head(12, 72), teacher=linear_head(20, 80, seed=2))
    case.teachers["teacher"].vocab_size = VOCAB
    assert_same(case, [mixture()[0], mixture()[-1]], columns=VOCAB)


def test_different_vocabularies_are_not_compared_by_accident():
    case = Case.of(linear_head(12, 72), teacher=linear_head(20, 80))
    with pytest.raises(ValueError, match=r"72 columns, the teacher 'teacher' 80"):
        case.engine(mixture()[:1])


def test_a_loss_without_the_labels_it_reads_is_an_error():
    case = Case.of(linear_head(12))
    case.labels = None
    with pytest.raises(ValueError, match="'by label' reads labels"):
        case.engine([RowTerm("by label", weighed_by_label, 1.0)])


@pytest.mark.parametrize("frozen", ["head", "states"])
def test_what_is_frozen_costs_no_matrix_product(frozen):
    def products(case):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            row_losses(case.student, case.teachers, mixture()[:1], labels=case.labels).total.backward()
        return sum(event.count for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm_"))

    assert products(Case.of(linear_head(12))) == 4
    case = Case.of(linear_head(12))
    (case.student.head.weight if frozen == "head" else case.student.states).requires_grad_(False)
    assert products(case) == 3
    assert (case.student.head.weight.grad is None) == (frozen == "head")
    assert (case.student.states.grad is None) == (frozen == "states")


def test_without_gradients_only_values_are_computed():
    case = Case.of(linear_head(12))
    with_gradient = row_losses(case.student, case.teachers, mixture(), labels=case.labels, memory=SMALL)
    with torch.no_grad():
        without = row_losses(case.student, case.teachers, mixture(), labels=case.labels, memory=SMALL)
    assert not without.total.requires_grad
    torch.testing.assert_close(without.total, with_gradient.total.detach())


@peft_warns
@pytest.mark.parametrize("student", ["bias", "soft-cap", "lora on the head"])
def test_no_rows_give_zero_and_gradients_of_zero(student):
    case = Case.of(STUDENTS[student](), num_rows=0)
    terms = mixture()
    result, gradients = case.engine(terms, observe=True)
    assert result.total.item() == 0
    assert [value.item() for value in result.sums.values()] == [0] * len(terms)
    assert (result.agreement_sum.item(), result.teacher_entropy_sum.item()) == (0, 0)
    assert [gradient.shape for gradient in gradients] == [leaf.shape for leaf in [*case.leaves, *owned(terms)]]
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("num_rows", [0, 37])
def test_classifiers_that_have_logits_give_the_same(num_rows):
    case = Case.of(linear_head(12, bias=True), num_rows=num_rows)
    terms = mixture()
    logits = case.student.head.project(case.student.states)
    with torch.no_grad():
        teacher = {"teacher": Rows(logits=case.teachers["teacher"].head.project(case.teachers["teacher"].states))}
    expected, expected_gradients = case.engine(terms, observe=True)
    for teachers in (teacher, case.teachers):
        result = row_losses(Rows(logits=logits), teachers, terms, labels=case.labels, observe=True)
        torch.testing.assert_close(result.total, expected.total)
        torch.testing.assert_close(result.sums, expected.sums)
        torch.testing.assert_close(result.agreement_sum, expected.agreement_sum)
        torch.testing.assert_close(result.teacher_entropy_sum, expected.teacher_entropy_sum)
        gradients = torch.autograd.grad(result.total, [*case.leaves, *owned(terms)], retain_graph=True)
        torch.testing.assert_close(gradients, expected_gradients)
    mixed = row_losses(case.student, teacher, terms, labels=case.labels, memory=SMALL)
    torch.testing.assert_close(mixed.total, expected.total)


@pytest.mark.parametrize("family", ["llama", "gemma2", "t5"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_whole_model_gets_the_gradients_of_the_plain_loss(family, tied):
    model, teacher = tiny_model(family, tie_word_embeddings=tied), tiny_model("llama", seed=5)
    inputs = tiny_inputs(model)
    with torch.no_grad():
        states = teacher.model(tiny_inputs(teacher)["input_ids"]).last_hidden_state
    width = inputs.get("decoder_input_ids", inputs["input_ids"]).shape[1]
    mask = torch.ones(3, width, dtype=torch.bool)
    mask[1, 2:5] = False
    teacher_rows = Rows(states=states[:, :1].expand(-1, width, -1), head=Head.of(teacher)).select(mask)

    expected_loss = divergences.forward_kl(
        model(**inputs).logits[mask], teacher_rows.head.project(teacher_rows.states).detach()
    ).sum()
    expected_loss.backward()
    expected = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    head = Head.of(model)
    with head.deferred(skip=True) as captured:
        model(**inputs)
    student = Rows(states=captured.states, head=head).select(mask)
    result = row_losses(student, {"teacher": teacher_rows}, [RowTerm("kl", divergences.forward_kl, 1.0)], memory=SMALL)
    result.total.backward()
    torch.testing.assert_close(result.total, expected_loss, rtol=1e-5, atol=0)
    for name, parameter in model.named_parameters():
        assert (parameter.grad - expected[name]).norm() <= 2e-5 * expected[name].norm(), name


def test_agreement_and_the_teachers_entropy_are_observed_on_request():
    case = Case.of(linear_head(12))
    student = case.student.head.project(case.student.states)
    teacher = case.teachers["teacher"].head.project(case.teachers["teacher"].states)
    result, _ = case.engine([RowTerm("kl", divergences.forward_kl, 1.0, temperature=3.0)], observe=True)
    entropy = torch.distributions.Categorical(logits=teacher).entropy().sum()
    torch.testing.assert_close(result.teacher_entropy_sum, entropy.detach())
    assert result.agreement_sum.item() == (student.argmax(-1) == teacher.argmax(-1)).sum().item()
    identical = row_losses(case.student, {"teacher": case.student}, mixture()[:1], observe=True)
    assert identical.agreement_sum.item() == 37
    assert case.engine(mixture())[0].agreement_sum is None


def test_cross_entropy_of_rows_comes_row_by_row():
    case = Case.of(model_head("gemma2"))
    (values,) = row_values(case.student, None, [divergences.cross_entropy], labels=case.labels, memory=SMALL)
    logits = case.student.head.project(case.student.states)
    expected = reference_cross_entropy(logits, case.labels, reduction="none").detach()
    assert not values.requires_grad
    torch.testing.assert_close(values, expected)
    (values,) = row_values(Rows(logits=logits), None, [divergences.cross_entropy], labels=case.labels)
    torch.testing.assert_close(values, expected)
    empty = Case.of(model_head("gemma2"), num_rows=0)
    (values,) = row_values(empty.student, None, [divergences.cross_entropy], labels=empty.labels)
    assert values.shape == (0,)


def test_the_gradient_can_be_taken_again_only_while_the_graph_is_retained():
    case = Case.of(linear_head(12))
    total = row_losses(case.student, case.teachers, mixture(), labels=case.labels).total
    first = torch.autograd.grad(total, case.leaves, retain_graph=True)
    second = torch.autograd.grad(total * 2, case.leaves, retain_graph=True)
    last = torch.autograd.grad(total, case.leaves)
    torch.testing.assert_close(second, tuple(2 * gradient for gradient in first))
    torch.testing.assert_close(last, first)
    with pytest.raises(RuntimeError, match="retain_graph"):
        total.backward()


def test_errors_in_a_loss_come_out_as_they_are():
    def broken(student_logits, teacher_logits):
        raise KeyError("of the plugin")

    with pytest.raises(KeyError, match="of the plugin"):
        Case.of(linear_head(12)).engine([RowTerm("broken", broken, 1.0)])
