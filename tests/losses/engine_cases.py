"""Students, teachers and losses that the tests of the engine share, and the same losses on whole logits."""

from __future__ import annotations

from dataclasses import dataclass

import peft
import pytest
import torch
from torch import nn

from hf_distill.batch.signals import IGNORE_INDEX, Rows
from hf_distill.losses import divergences
from hf_distill.losses.base import RowLoss
from hf_distill.losses.engine import RowTerm, row_losses
from hf_distill.models.heads import Head
from hf_distill.testing import tiny_model

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
