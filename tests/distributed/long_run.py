"""A run of some optimizer steps with everything that has state; writes what it saw to JSON. Run by test_runs.py."""

from __future__ import annotations

import argparse
import json
import os
import signal
from pathlib import Path

import numpy as np
import torch
from transformers import DataCollatorForSeq2Seq, TrainerCallback, TrainingArguments

from hf_distill import DistillationTrainer, MixtureSelector, RowLoss
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer


class Drifting(RowLoss):
    """Cross-entropy with the teacher, with a buffer that keeps time and a parameter that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.scale = torch.nn.Parameter(torch.ones(2, 2))  # a matrix, which an empty shard is not shaped like

    def forward(self, student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> torch.Tensor:
        target = teacher_logits.softmax(-1)
        return (self.scale.square().mean() + 0.1 * self.steps) * -(target * student_logits.log_softmax(-1)).sum(-1)

    def on_step_end(self, info: object) -> None:
        self.steps += 1


class Swinging(MixtureSelector):
    """Follows the student's cross-entropy on the probe set."""

    needs_probe = True

    def update(self, step: int, probe: object) -> None:
        figures = probe.cross_entropy("student")
        teacher = probe.cross_entropy("teacher")
        raw = np.array([figures[domain] / teacher[domain] for domain in self.domains])
        self.weights = raw / raw.sum()


class Kill(TrainerCallback):
    """Ends every process of the run without a word."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: object, state: object, control: object, **_: object) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def watch(model: torch.nn.Module, seen: list[float]) -> None:
    """Note which share of the model's weights is on this process, at every module's forward pass."""
    total = sum(parameter.ds_numel for parameter in model.parameters())

    def note(*_: object) -> None:
        here = sum(p.ds_numel for p in model.parameters() if p.ds_status.name == "AVAILABLE")
        seen.append(here / total)

    for module in model.modules():
        module.register_forward_pre_hook(note)


def main() -> None:
    """Train, evaluate, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--kill-at", type=int)
    parser.add_argument("--micro-batch", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = causal_lm_dataset(24, num_domains=3)
    trainer = DistillationTrainer(
        model=tiny_model("llama", hidden_size=16),
        args=TrainingArguments(
            output_dir=str(options.output),
            per_device_train_batch_size=options.micro_batch,
            per_device_eval_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=8,
            learning_rate=1e-2,
            logging_steps=1,
            save_steps=3,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        teacher=tiny_model("llama", num_hidden_layers=12),
        losses=["task", Drifting(), "hidden_mse"],
        selector=Swinging(interval=2),
        probe_dataset=causal_lm_dataset(9, num_domains=3, seed=5),
        train_dataset=data,
        eval_dataset=causal_lm_dataset(7, seed=7),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        callbacks=[Kill(options.kill_at)] if options.kill_at else [],
    )
    shares: list[float] = []
    teacher = trainer.plan.teachers["teacher"].model
    if hasattr(next(teacher.parameters()), "ds_numel"):
        watch(teacher, shares)
    trainer.train(resume_from_checkpoint=options.resume or None)
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        names = ("step", "loss", "task_loss", "Drifting_loss", "hidden_mse_loss", "mixture/d0", "mixture/d1")
        report = {
            "logs": [{name: entry[name] for name in names} for entry in logs],
            "metrics": {k: v for k, v in metrics.items() if "loss" in k or "perplexity" in k},
            "largest_share": max(shares, default=None),
        }
        options.report.write_text(json.dumps(report))
    trainer.end()


if __name__ == "__main__":
    main()
