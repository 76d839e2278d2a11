"""Without teacher, losses and selector, `DistillationTrainer` is `Trainer`, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_model, tiny_tokenizer

TIMES = ("runtime", "per_second", "memory", "preparation_time")


def make(family):
    tokenizer = tiny_tokenizer()
    if family == "bert_classifier":
        return classification_dataset(24), DataCollatorWithPadding(tokenizer)
    if family == "bert_tokens":
        dataset = causal_lm_dataset(24).map(lambda row: {"labels": [token % 3 for token in row["labels"]]})
        return dataset, DataCollatorForTokenClassification(tokenizer)
    if family == "bert_mlm":
        return causal_lm_dataset(24).remove_columns("labels"), DataCollatorForLanguageModeling(tokenizer, seed=1)
    return causal_lm_dataset(24), DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)


def run(trainer_class, family, folder, args_class=TrainingArguments, *, max_steps=6, resume=None, **overrides):
    dataset, collator = make(family)
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": max_steps,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_steps": 3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    trainer = trainer_class(
        model=tiny_model(family),
        args=args_class(**(options | overrides)),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(6)),
        data_collator=collator,
    )
    trainer.train(resume_from_checkpoint=resume)
    history = [
        {key: value for key, value in entry.items() if not any(word in key for word in TIMES)}
        for entry in trainer.state.log_history
    ]
    return trainer, history


@pytest.mark.parametrize("family", ["llama", "bert_mlm", "bert_classifier", "bert_tokens", "t5"])
@pytest.mark.parametrize("args_class", [TrainingArguments, DistillationArguments])
def test_trainer_without_teacher_is_bit_identical_to_trainer(family, args_class, tmp_path):
    _, expected = run(Trainer, family, tmp_path / "theirs")
    _, ours = run(DistillationTrainer, family, tmp_path / "ours", args_class)
    assert ours == expected
    weights = [load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("theirs", "ours")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in {*weights[0], *weights[1]})
    files = [{path.name for path in (tmp_path / name / "checkpoint-6").iterdir()} for name in ("theirs", "ours")]
    assert files[0] == files[1]


def test_resume_without_teacher_is_that_of_trainer(tmp_path):
    run(Trainer, "llama", tmp_path / "theirs")
    _, expected = run(Trainer, "llama", tmp_path / "theirs", resume=str(tmp_path / "theirs" / "checkpoint-3"))
    run(DistillationTrainer, "llama", tmp_path / "ours")
    _, ours = run(DistillationTrainer, "llama", tmp_path / "ours", resume=str(tmp_path / "ours" / "checkpoint-3"))
    assert ours == expected


def test_resume_passes_over_a_checkpoint_that_was_cut_short(tmp_path):
    run(DistillationTrainer, "llama", tmp_path)
    state = Path(tmp_path / "checkpoint-6" / "trainer_state.json")
    state.write_text(state.read_text()[:100])
    with pytest.raises(json.JSONDecodeError):
        json.loads(state.read_text())
    trainer, history = run(DistillationTrainer, "llama", tmp_path, resume=True)
    assert trainer.state.global_step == 6
    assert [entry["step"] for entry in history if "loss" in entry] == [1, 2, 3, 4, 5, 6]
