"""What a row loss is given: several teachers, and columns of the data."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from hf_distill import DistillationTrainer, RowLoss, Rows
from hf_distill.losses.engine import RowTerm, row_losses
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer


class Seen(RowLoss):
    """Notes what it was called with."""

    columns = ("source", "strength")

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, student_logits, one, other, labels, *, source, strength):
        self.calls.append((one, other, labels, source, strength))
        return (student_logits - one + other).square().mean(-1)


def trainer_for(folder, losses, data):
    teachers = [{"name": name, "model": tiny_model("llama", seed=seed)} for seed, name in enumerate("ab", start=1)]
    return DistillationTrainer(
        model=tiny_model("llama"),
        args=TrainingArguments(str(folder), max_steps=1, report_to="none", use_cpu=True, per_device_train_batch_size=4),
        teacher=teachers,
        losses=losses,
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
    )


def data_with(**columns):
    rows = causal_lm_dataset(4).to_dict()
    return Dataset.from_dict(rows | columns)


def test_a_loss_gets_its_teachers_in_the_order_named_and_the_columns_of_each_row(tmp_path):
    seen = Seen()
    data = data_with(source=[3, 1, 4, 1], strength=[0.5, 1.5, 2.5, 3.5])
    trainer = trainer_for(tmp_path, [{"function": seen, "teacher": ["b", "a"]}], data)
    batch = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    trainer.compute_loss(trainer.model, batch)
    one, other, labels, source, strength = (torch.cat(parts) for parts in zip(*seen.calls, strict=True))
    mask = batch["labels"][:, 1:] != -100
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for given, name in ((one, "b"), (other, "a")):
        expected = trainer.plan.teachers[name].model(**inputs).logits[:, :-1][mask]
        torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(labels, batch["labels"][:, 1:][mask])
    for given, name in ((source, "source"), (strength, "strength")):
        assert torch.equal(given, batch[name][:, None].expand(mask.shape)[mask])


def test_a_column_of_text_is_an_error_that_says_what_was_expected(tmp_path):
    losses = [{"function": Seen(), "teacher": ["a", "b"]}]
    trainer = trainer_for(tmp_path, losses, data_with(source=["x"] * 4, strength=[1.0] * 4))
    with pytest.raises(ValueError, match=r"reads the column 'source', which is list .* one number an example, \(4,\)"):
        trainer.train()


def test_unknown_teachers_and_two_teachers_for_features_are_errors_that_name_them(tmp_path):
    with pytest.raises(ValueError, match="names the teacher 'c'; there are 'a', 'b'"):
        trainer_for(tmp_path, [{"name": "forward_kl", "teacher": ["a", "c"]}], data_with())
    with pytest.raises(ValueError, match="'hidden_mse' compares features with one teacher, but names 2: a, b"):
        trainer_for(tmp_path, [{"name": "hidden_mse", "teacher": ["a", "b"]}], data_with())


def standardised(student_logits, teacher_logits, temperature):
    """A loss that undoes the division by the temperature, and so must divide by it again."""
    p, q = (torch.nn.functional.normalize(z, dim=-1).div(temperature) for z in (teacher_logits, student_logits))
    return (p - q).square().sum(-1)


def test_a_loss_that_requires_the_temperature_is_given_it(tmp_path):
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    terms = [RowTerm("own", standardised, 1.0, temperature=2.0)]
    found = row_losses(Rows(logits=student), {"teacher": Rows(logits=teacher)}, terms).sums["own"]
    directions = [torch.nn.functional.normalize(logits, dim=-1) for logits in (student, teacher)]
    torch.testing.assert_close(found, (directions[0] - directions[1]).square().sum())  # a quarter, times two squared


def test_a_function_with_a_default_temperature_keeps_its_default():
    def own(student_logits, teacher_logits, *, temperature=3.0):
        return torch.full_like(student_logits[:, 0], temperature)

    terms = [RowTerm("own", own, 1.0, temperature=2.0)]
    rows = Rows(logits=torch.randn(2, 5))
    assert row_losses(rows, {"teacher": rows}, terms).sums["own"] == 2 * 3.0 * 4
