"""The engine against the same losses on whole logits, by ordinary autograd."""

from __future__ import annotations

from dataclasses import dataclass

import peft
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy as reference_cross_entropy

from hf_distill.heads import Head
from hf_distill.losses import divergences
from hf_distill.losses.base import RowLoss
from hf_distill.losses.engine import RowTerm, row_losses, row_values
from hf_distill.signals import IGNORE_INDEX, Rows
from hf_distill.testing import tiny_inputs, tiny_model

VOCAB = 64
SMALL = 60_000  # bytes: chunks of a few rows of 64 columns


class Learned(RowLoss):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7))

    def forward(self, student_logits, teacher_logits):
        return ((student_logits - self.gain * teacher_logits).softmax(-1).square()).sum(-1)


def plugin(student_logits, teacher_logits):
    return (student_logits.softmax(-1) - teacher_logits.softmax(-1)).abs().sum(-1)


def weighed_by_label(student_logits, teacher_logits, labels):
    return plugin(student_logits, teacher_logits) * (labels % 3)


def linear_head(width, columns=VOCAB, *, bias=False, seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    model = nn.Module()
    model.lm_head = nn.Linear(width, columns, bias=bias, dtype=dtype)
    return Head(model, model.lm_head, ())


def model_head(family, *, lora=None, **config):
    model = tiny_model(family, **config)
    if family == "bart":
        model.final_logits_bias.normal_()
    if lora:
        model = peft.get_peft_model(model, peft.LoraConfig(r=2, init_lora_weights=False, target_modules=lora))
    return Head.of(model)


peft_warns = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::UserWarning:peft")
STUDENTS = {
    "plain": lambda: linear_head(12),
    "bias": lambda: linear_head(12, bias=True),
    "tied": lambda: model_head("llama", tie_word_embeddings=True),
    "soft-cap": lambda: model_head("gemma2"),
    "logit scale": lambda: model_head("cohere"),
    "division": lambda: model_head("granite"),
    "added bias": lambda: model_head("bart"),
    "masked": lambda: model_head("bert_mlm"),
    "lora on the head": lambda: model_head("gemma2", lora=["lm_head"]),
    "lora elsewhere": lambda: model_head("llama", lora=["q_proj"]),
}


@dataclass
class Case:
    student: Rows
    teachers: dict
    labels: torch.Tensor

    @classmethod
    def of(cls, head, *, num_rows=37, dtype=torch.float32, vocab_size=None, **teacher_heads):
        generator = torch.Generator().manual_seed(1)

        def states(own):
            width = next(p for p in own.module.parameters() if p.ndim == 2 and own.vocab_size in p.shape).shape[1]
            return torch.randn(num_rows, width, generator=generator).to(dtype)

        teacher_heads = teacher_heads or {"teacher": linear_head(20, head.vocab_size, seed=2, dtype=dtype)}
        labels = torch.randint(0, VOCAB, (num_rows,), generator=generator)
        labels[::5] = IGNORE_INDEX
        return cls(
            student=Rows(states=states(head).requires_grad_(), head=head, vocab_size=vocab_size),
            teachers={
                name: Rows(states=states(one), head=one, vocab_size=vocab_size) for name, one in teacher_heads.items()
            },
            labels=labels,
        )

    @property
    def leaves(self):
        return [self.student.tensor, *(p for p in self.student.head.parameters() if p.requires_grad)]

    def engine(self, terms, **options):
        result = row_losses(self.student, self.teachers, terms, labels=self.labels, memory=SMALL, **options)
        return result, torch.autograd.grad(result.total, [*self.leaves, *owned(terms)])

    def reference(self, terms, columns=None):
        columns = columns or self.student.head.vocab_size
        student = self.student.head.project(self.student.states).float()
        with torch.no_grad():
            teachers = {
                name: rows.head.project(rows.states).float()[:, :columns] for name, rows in self.teachers.items()
            }
        sums = {}
        for term in terms:
            if not term.teachers:
                arguments = [student / term.temperature, self.labels]
            else:
                arguments = [student[:, :columns] / term.temperature, teachers[term.teachers[0]] / term.temperature]
                arguments += [self.labels] if term.function is weighed_by_label else []
            sums[term.name] = (term.function(*arguments) * term.temperature**2).sum()
        total = sum(sums[term.name] * term.scale for term in terms)
        return total, sums, torch.autograd.grad(total, [*self.leaves, *owned(terms)])


def owned(terms):
    return [p for term in terms if isinstance(term.function, nn.Module) for p in term.function.parameters()]


def assert_same(case, terms, *, columns=None, tolerance=1e-5):
    result, gradients = case.engine(terms)
    total, sums, expected = case.reference(terms, columns)
    torch.testing.assert_close(result.total, total, rtol=tolerance, atol=0)
    for name, value in sums.items():
        torch.testing.assert_close(result.sums[name], value.detach(), rtol=tolerance, atol=0)
    for gradient, reference in zip(gradients, expected, strict=True):
        assert gradient.dtype == reference.dtype
        assert (gradient - reference).norm() <= tolerance * reference.norm(), (gradient - reference).norm()


def mixture(scale=0.3):
    return [
        RowTerm("kl", divergences.forward_kl, scale, temperature=2.0),
        RowTerm("jsd", divergences.jsd, torch.tensor(0.5 * scale), temperature=4.0),
        RowTerm("plugin", plugin, scale),
        RowTerm("by label", weighed_by_label, scale),
        RowTerm("learned", Learned(), scale),
        RowTerm("task", divergences.cross_entropy, torch.tensor(scale), teachers=()),
    ]


@pytest.mark.parametrize("student", STUDENTS)
@peft_warns
def test_every_head_gives_what_whole_logits_give(student):
    assert_same(Case.of(STUDENTS[student]()), mixture())


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skewed_kl", "skewed_reverse_kl", "logit_mse"])
def test_every_divergence_at_every_temperature_gives_what_whole_logits_give(name, temperature):
    terms = [RowTerm(name, getattr(divergences, name), 1.0, temperature=temperature)]
    assert_same(Case.of(linear_head(12)), terms)


def test_teachers_of_other_widths_share_one_pass():
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


def test_the_first_teacher_is_observed():
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


def test_a_second_use_of_the_gradient_is_right_or_an_error():
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
