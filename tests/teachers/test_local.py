"""Local teachers: where they come from, what they are asked, and how often."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer, LocalTeacher
from hf_distill.batch.reader import BatchReader
from hf_distill.testing import causal_lm_dataset, tiny_inputs, tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher as a user has it: a folder with a tokenizer."""
    path = tmp_path_factory.mktemp("teacher")
    tiny_model("llama", seed=1).save_pretrained(path)
    tiny_tokenizer().save_pretrained(path)
    return str(path)


def batch_for(model):
    return BatchReader(model, shifted=True).read(tiny_inputs(model))


@pytest.mark.parametrize(
    "options", [{}, {"dtype": "bfloat16"}, {"device_map": "cpu"}, {"dtype": torch.float64}], ids=str
)
def test_a_teacher_from_a_folder_gives_the_logits_and_features_of_the_model(folder, options):
    teacher = LocalTeacher(folder, **options)
    teacher.request(rows=True, taps=["hidden.1"])
    batch = batch_for(teacher.model)
    signal = teacher.signal(batch)
    logits = signal.rows.head.project(signal.rows.states) if signal.rows.head else signal.rows.logits
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=options.get("dtype", "auto"))
    with torch.no_grad():
        expected = reference(**batch.inputs, output_hidden_states=True)
    torch.testing.assert_close(logits, expected.logits)
    torch.testing.assert_close(signal.features["hidden.1"], expected.hidden_states[1])
    assert teacher.tokenizer.get_vocab() == tiny_tokenizer().get_vocab()
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert not logits.requires_grad


def test_a_teacher_runs_without_dropout_or_gradients():
    model = tiny_model("llama", attention_dropout=0.5).train()
    teacher = LocalTeacher(model)
    teacher.request(rows=True, taps=())
    batch = batch_for(model)
    first, second = (teacher.signal(batch).rows.states for _ in range(2))
    assert torch.equal(first, second)
    assert not first.requires_grad


class Counting(LocalTeacher):
    """A teacher that counts how often it is asked."""

    calls = 0

    def signal(self, batch):
        self.calls += 1
        assert not torch.is_grad_enabled() or not any(p.requires_grad for p in self.model.parameters())
        return super().signal(batch)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (["task", "forward_kl", "jsd", "hidden_mse"], 6),
        (["task"], 0),
        (["task", {"name": "forward_kl", "weight": {"start": 1.0, "end": 0.0, "steps": 1}}], 2),
    ],
)
def test_a_teacher_runs_once_for_each_micro_batch_that_needs_it(losses, expected, tmp_path):
    teacher = Counting(tiny_model("llama", seed=1))
    trainer = DistillationTrainer(
        model=tiny_model("llama"),
        args=DistillationArguments(
            str(tmp_path),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=3,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
        ),
        teacher=teacher,
        losses=losses,
        train_dataset=causal_lm_dataset(16),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
    )
    trainer.train()
    assert teacher.calls == expected


def test_a_missing_folder_is_named_in_the_error(tmp_path):
    with pytest.raises((OSError, ValueError), match="nowhere"):
        LocalTeacher(str(tmp_path / "nowhere"))
