"""Gradients that are kept apart until a step is complete, against autograd on the whole batch."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType
from torch import nn
from transformers import DataCollatorWithPadding, TrainingArguments

from hf_distill import BatchLoss, DistillationTrainer, GradientMergingMixin, TrainDatasetMixin
from hf_distill.testing import classification_dataset, tiny_model, tiny_tokenizer

RATE = 0.5


class Apart(GradientMergingMixin, BatchLoss):
    """The squares of a map of the logits, which the task's loss does not know."""

    items = "rows"
    needs_teacher = False
    needs_student_rows = True

    def __init__(self, *, apart: bool = True, keep: float = 1.0) -> None:
        super().__init__()
        self.separate_gradients, self.keep = apart, keep
        self.seen: list[tuple[list[torch.Tensor], list[torch.Tensor]]] = []

    def setup(self, student, teacher, tokenizer):
        self.map = nn.Linear(3, 2, bias=False)

    def forward(self, student, teacher, batch):
        return self.map(student.rows.logits).square().sum()

    def merge_gradients(self, gradients, other_gradients):
        self.seen.append(([g.clone() for g in gradients], [g.clone() for g in other_gradients]))
        return [self.keep * g + g0 for g, g0 in zip(gradients, other_gradients, strict=True)]


def trainer_for(folder, losses, *, micro_batch=4, accumulation=1):
    arguments = {"use_cpu": True, "report_to": "none", "save_strategy": "no", "disable_tqdm": True, "max_grad_norm": 0}
    arguments |= {"max_steps": 1, "optim": "sgd", "learning_rate": RATE, "lr_scheduler_type": "constant"}
    arguments |= {"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}
    return DistillationTrainer(
        tiny_model("bert_classifier"),
        TrainingArguments(str(folder), train_sampling_strategy="sequential", **arguments),
        losses=losses,
        train_dataset=classification_dataset(4),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )


def step(trainer):
    """What one step of plain SGD did to each parameter, over the learning rate."""
    before = {name: parameter.detach().clone() for name, parameter in trainer.student.named_parameters()}
    trainer.train()
    after = dict(trainer.student.named_parameters())
    return {name: (before[name] - after[name].detach()) / RATE for name in before}


def near(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(4, 1), (2, 2), (1, 4)])
def test_the_sum_of_both_gradients_is_the_gradient_of_the_sum(tmp_path, micro_batch, accumulation):
    spec = {"weight": 0.3, "label": "own"}
    together = step(trainer_for(tmp_path, ["task", {"function": Apart(apart=False), **spec}]))
    cut = {"micro_batch": micro_batch, "accumulation": accumulation}
    near(step(trainer_for(tmp_path, ["task", {"function": Apart(), **spec}], **cut)), together)
    assert together["distillation_losses.own.map.weight"].any()


@pytest.mark.parametrize(("micro_batch", "accumulation"), [(4, 1), (2, 2)])
def test_gradients_are_merged_once_when_the_step_is_complete(tmp_path, micro_batch, accumulation):
    loss = Apart(keep=0.0)
    trainer = trainer_for(
        tmp_path, ["task", {"function": loss, "weight": 0.3}], micro_batch=micro_batch, accumulation=accumulation
    )
    alone = step(trainer_for(tmp_path, ["task"]))
    found = step(trainer)
    assert len(loss.seen) == 1
    (_, others) = loss.seen[0]
    assert sum(g.square().sum() for g in others) == pytest.approx(sum(g.square().sum() for g in alone.values()))
    assert not found.pop("distillation_losses.Apart.map.weight").any()
    near(found, alone)  # nothing of this loss was kept


def test_the_logged_loss_includes_the_part_that_is_kept_apart(tmp_path):
    losses = []
    for apart in (False, True):
        trainer = trainer_for(tmp_path, ["task", {"function": Apart(apart=apart), "label": "own"}])
        trainer.train()
        losses.append(trainer.state.log_history[-1]["train_loss"])
    assert losses[0] == pytest.approx(losses[1])


def test_a_loss_that_merges_gradients_needs_other_losses_that_do_not(tmp_path):
    with pytest.raises(ValueError, match=r"'Apart' puts its gradient together .* there are no others"):
        trainer_for(tmp_path, [{"function": Apart()}])
    both = [{"function": Apart(), "label": label} for label in ("a", "b")]
    with pytest.raises(ValueError, match=r"'a' and 'b' .* only one may"):
        trainer_for(tmp_path, ["task", *both])


@pytest.mark.parametrize("kind", [DistributedType.DEEPSPEED, DistributedType.FSDP])
def test_separate_gradients_are_refused_where_gradients_are_divided_up(tmp_path, kind):
    separate = trainer_for(tmp_path, ["task", {"function": Apart()}])._separate
    separate.check(SimpleNamespace(distributed_type=DistributedType.MULTI_GPU))
    with pytest.raises(ValueError, match=f"'Apart' needs its gradient .* {kind.value} divides .* Launch with DDP"):
        separate.check(SimpleNamespace(distributed_type=kind))


class Counting(TrainDatasetMixin, BatchLoss):
    """Counts the training examples."""

    needs_teacher = False
    items = "rows"
    needs_student_rows = True

    def setup(self, student, teacher, tokenizer):
        self.register_buffer("size", torch.zeros(1))

    def on_train_dataset(self, dataset):
        self.size.fill_(len(dataset["labels"]))

    def forward(self, student, teacher, batch):
        return student.rows.logits.square().sum() * self.size.squeeze()


def test_a_loss_sees_the_training_data(tmp_path):
    loss = Counting()
    trainer_for(tmp_path, ["task", {"function": loss}])
    assert loss.size == 4


class Blind(Counting):
    """Cannot read the data."""

    def on_train_dataset(self, dataset):
        dataset["classes"]


def test_the_error_of_a_loss_that_cannot_read_the_data_says_where_the_loss_came_from(tmp_path):
    with pytest.raises(ValueError, match="classes") as raised:
        trainer_for(tmp_path, ["task", {"function": Blind()}])
    assert "the training script" in " ".join([str(raised.value), *getattr(raised.value, "__notes__", [])])
