"""Logits in chunks against the model's own forward pass, for heads of all kinds and under DeepSpeed ZeRO.

Runs of several processes start this file as a script.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hf_distill_lm.projected import sum_over_chunks
from safetensors.torch import load_file
from torch import nn
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from hf_distill import Batch, DistillationTrainer, LocalTeacher
from hf_distill.testing import causal_lm_dataset, tiny_inputs, tiny_model, tiny_tokenizer

CHUNKS = [slice(0, 3), slice(2, 7), slice(7, 9)]


class LowRank(nn.Module):
    """A head with an adapter beside it."""

    def __init__(self, head):
        super().__init__()
        self.head, self.weight = head.requires_grad_(False), head.weight
        self.down, self.up = nn.Linear(head.in_features, 2, bias=False), nn.Linear(2, head.out_features, bias=False)

    def forward(self, states):
        return self.head(states) + self.up(self.down(states))


def rows_of(model):
    """The rows of one example, their states a leaf; and the logits that the model itself gives for it."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    teacher = LocalTeacher(model)  # freezes the model
    teacher.request(rows=True, taps=())
    inputs = tiny_inputs(model, num_examples=1)
    mask = torch.ones(1, 9, dtype=torch.bool)
    rows = teacher.signal(Batch(inputs, {}, None, None, row_mask=mask, token_mask=mask)).rows.select(mask)
    for parameter in trainable:
        parameter.requires_grad_()
    with torch.no_grad():
        logits = model(**inputs).logits[0]
    return replace(rows, states=rows.states.detach().requires_grad_()), logits


def chunk_loss(student_logits, teacher_logits, rows):
    weights = torch.arange(1.0, 10.0)[rows, None]
    return (weights * student_logits.softmax(-1) * teacher_logits.log_softmax(-1)).sum()


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "granite", "adapter"])
def test_values_and_gradients_are_those_of_whole_logits(family):
    model = tiny_model("llama" if family == "adapter" else family)
    if family == "adapter":
        model.lm_head = LowRank(model.lm_head)
    student, logits = rows_of(model)
    teacher, teacher_logits = rows_of(tiny_model("llama", seed=5))
    value = sum_over_chunks(chunk_loss, student, teacher, CHUNKS)
    expected = sum(chunk_loss(logits[rows], teacher_logits[rows], rows) for rows in CHUNKS)
    torch.testing.assert_close(value.detach(), expected, rtol=1e-5, atol=1e-5)

    parameters = [parameter for parameter in student.head.module.parameters() if parameter.requires_grad]
    assert len(parameters) == (2 if family == "adapter" else 1)
    whole = student.head.project(student.states)
    expected = sum(chunk_loss(whole[rows], teacher_logits[rows], rows) for rows in CHUNKS)
    leaves = [student.states, *parameters]
    for found, gradient in zip(
        torch.autograd.grad(3 * value, leaves), torch.autograd.grad(3 * expected, leaves), strict=True
    ):
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-5)


def test_the_sum_requires_no_gradient_where_gradients_are_off():
    student, _ = rows_of(tiny_model("llama"))
    with torch.no_grad():
        assert not sum_over_chunks(chunk_loss, student, student, CHUNKS).requires_grad


EVERYTHING = [
    "taid",
    {"name": "dac_kl", "num_classes": 8, "width": 4},
    "adaptive_kl",
    {"name": "first", "temperature": 2.0},
    {"name": "sinkd", "weight": 0.3, "group_size": 16},
    {"name": "span_relation", "weight": 5.0, "chunk_size": 8},
    {"name": "distillm2", "weight": 0.5},
    {"name": "aligndistil", "weight": 2.0, "teacher": ["one", "other"]},
]


def train(micro_batch, accumulation, output):
    """One step of plain SGD with every loss of the package, on eight examples."""
    data = causal_lm_dataset(8)
    data = data.add_column("span_ids", [[place // 3 for place in range(len(ids))] for ids in data["input_ids"]])
    data = data.add_column("source", [index % 2 for index in range(8)])
    trainer = DistillationTrainer(
        tiny_model("llama", hidden_size=16, tie_word_embeddings=True),
        TrainingArguments(
            str(output),
            **{"max_steps": 1, "learning_rate": 8.0, "optim": "sgd", "max_grad_norm": 0.0, "use_cpu": True},
            **{"per_device_train_batch_size": micro_batch, "gradient_accumulation_steps": accumulation},
            **{"lr_scheduler_type": "constant", "train_sampling_strategy": "sequential"},
            **{"save_strategy": "no", "report_to": "none", "disable_tqdm": True},
        ),
        teacher=[{"name": name, "model": tiny_model("llama", seed=seed)} for name, seed in (("one", 3), ("other", 4))],
        losses=[{"teacher": "one", **({"name": loss} if isinstance(loss, str) else loss)} for loss in EVERYTHING],
        plugins=["lm"],
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
    )
    trainer.train()
    trainer.save_model(str(output))


def weights(folder):
    state = load_file(folder / "model.safetensors")
    state.pop("lm_head.weight", None)  # tied; saved once more under DeepSpeed
    own = load_file(folder / "distillation_losses.safetensors")
    floats = [value for _, value in sorted({**state, **own}.items()) if value.is_floating_point()]
    return torch.cat([value.double().flatten() for value in floats])


@pytest.mark.distributed
@pytest.mark.parametrize("stage", [2, 3])
def test_all_losses_together_give_the_same_step_on_two_processes_under_zero(tmp_path, stage):
    """SinKD's groups are those of a micro-batch, so the reference has the micro-batches that the processes have."""
    config = {
        "zero_optimization": {
            "stage": stage,
            "stage3_param_persistence_threshold": 0,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        **dict.fromkeys(("train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"), "auto"),
    }
    (tmp_path / "zero.json").write_text(json.dumps(config))
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1"]
    launcher += ["--dynamo_backend", "no", "--use_deepspeed", "--deepspeed_config_file", str(tmp_path / "zero.json")]
    for command in ([], launcher):
        arguments = [
            __file__,
            *(["4", "1"] if command else ["4", "2"]),
            str(tmp_path / ("cut" if command else "whole")),
        ]
        done = subprocess.run([sys.executable, *command, *arguments], capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-4000:]
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    start = tiny_model("llama", hidden_size=16, tie_word_embeddings=True).state_dict()
    moved = (whole.norm() - torch.cat([value.double().flatten() for value in start.values()]).norm()).abs()
    assert moved > 1e-3
    assert (whole - cut).norm() / whole.norm() < 1e-5


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
