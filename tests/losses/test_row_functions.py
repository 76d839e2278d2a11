"""What row losses take is read from their signatures, once."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from hf_distill import RowLoss, forward_kl, row_loss
from hf_distill.losses.row_functions import RowCall, accepts_one_column

from ..trainers import trainer_for


def with_everything(student_logits, teacher_logits, labels, temperature):
    return student_logits.sum(-1)


def on_sparse(student_logits, teacher, *, power=1.0):
    return student_logits.sum(-1) * power


@row_loss(on_sparse=on_sparse, accepts_one_column=True)
def declared(student_logits, teacher_logits, *, power=1.0, temperature=2.0):
    return student_logits.sum(-1) * power


class Scaled(RowLoss):
    columns = ("source",)

    def __init__(self, *, parameters: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(())) if parameters else 1.0

    def forward(self, student_logits, teacher_logits, labels, source):
        return student_logits.sum(-1) * self.scale

    def on_sparse(self, student_logits, teacher, labels, source):
        return student_logits.sum(-1)


def test_what_a_function_takes_is_read_from_its_signature():
    assert RowCall.of(with_everything, num_teachers=1) == RowCall(labels=True, temperature=True)
    call = RowCall.of(with_everything, num_teachers=1)
    assert call.reads == ("labels",)
    bound = RowCall.of(functools.partial(with_everything, temperature=2.0), num_teachers=1)
    assert not bound.temperature
    assert RowCall.of(lambda student_logits, targets: student_logits, num_teachers=0).reads == ("labels",)


def test_a_sparse_form_serves_one_teacher_and_keeps_the_options():
    call = RowCall.of(functools.partial(declared, power=3.0), num_teachers=1)
    assert call.on_sparse(torch.ones(2, 4), None).tolist() == [12.0, 12.0]
    assert not call.temperature, "it has a value of its own"
    assert RowCall.of(declared, num_teachers=1).on_sparse is on_sparse
    assert RowCall.of(declared, num_teachers=2).on_sparse is None
    assert RowCall.of(Scaled(parameters=False), num_teachers=1).on_sparse is not None
    assert RowCall.of(Scaled(parameters=True), num_teachers=1).on_sparse is None
    assert RowCall.of(Scaled(parameters=True), num_teachers=1).reads == ("labels", "source")


def test_one_column_is_accepted_where_the_loss_says_so():
    assert accepts_one_column(functools.partial(declared, power=2.0))
    assert accepts_one_column(declared)
    assert not accepts_one_column(forward_kl)
    assert not accepts_one_column(Scaled(parameters=False))
    assert not accepts_one_column(with_everything)


@pytest.mark.parametrize("losses", [["task", "forward_kl"], ["task", {"name": "jsd", "beta": 0.3}, with_everything]])
def test_no_signature_is_read_in_a_step(tmp_path, monkeypatch, losses):
    trainer = trainer_for(tmp_path, losses=losses, max_steps=2)
    assert trainer.distillation_step.row_terms.losses
    monkeypatch.setattr(RowCall, "of", None)
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.evaluate(trainer.train_dataset)["eval_loss"] != 0
