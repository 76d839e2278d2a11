"""A tiny training with each loss of the package, from the name in the configuration to a student that has learnt."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer, Plugins, forward_kl
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

LOSSES = {
    "taid": {"name": "taid", "alpha": 0.1},
    "adaptive_kl": {"name": "adaptive_kl"},
    "first": {"name": "first", "calibration_temperature": 0.3, "weight": 10.0},
    "aligndistil": {"name": "aligndistil", "teacher": ["best", "second"], "weight": 10.0},
    "distillm2": {"name": "distillm2", "final_weight": 1.5},
    "dac_kl": {"name": "dac_kl", "num_classes": 16},
    "sinkd": {"name": "sinkd"},
    "span_relation": {"name": "span_relation", "weight": 20.0},
}


def data():
    rows = causal_lm_dataset(32)
    rows = rows.add_column("span_ids", [[place // 4 for place in range(len(ids))] for ids in rows["input_ids"]])
    return rows.add_column("source", [index % 2 for index in range(32)])


@torch.no_grad()
def distance(student, teacher):
    """Forward KL to the teacher over all positions."""
    values = []
    for ids in data()["input_ids"]:
        ours, theirs = (model(torch.tensor([ids])).logits[0] for model in (student, teacher))
        values.append(forward_kl(ours, theirs))
    return torch.cat(values).mean().item()


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_learns_with_each_loss(tmp_path, name):
    best, second = (tiny_model("llama", seed=seed, num_hidden_layers=1) for seed in (2, 3))
    student = tiny_model("llama", seed=1, num_hidden_layers=1)
    before = distance(student, best)
    trainer = DistillationTrainer(
        student,
        DistillationArguments(
            str(tmp_path),
            **{"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "logging_steps": 1},
            **{"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "plugins": ["lm"]},
            losses=[{"teacher": "best", **LOSSES[name]}],
        ),
        teacher=[{"name": "best", "model": best}, {"name": "second", "model": second}],
        train_dataset=data(),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
    )
    trainer.train()
    logged = [entry[f"{name}_loss"] for entry in trainer.state.log_history if f"{name}_loss" in entry]
    assert len(logged) == 40
    if name != "taid":  # whose target moves away meanwhile
        assert sum(logged[-5:]) < 0.9 * sum(logged[:5])
    if name != "aligndistil":  # whose target is beyond the first teacher
        assert distance(student, best) < 0.95 * before


def test_every_component_has_its_training_here_or_its_own_test():
    plugins = Plugins(["lm"])
    own = {component.name for component in plugins.losses if "hf-distill-lm" in str(component)}
    assert own == set(LOSSES)
    assert "scrg" in {component.name for component in plugins.generators}  # test_scrg.py


def test_the_plugin_does_not_import_torch_to_say_what_it_has():
    source = "import sys, hf_distill_lm; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", source], check=True)
