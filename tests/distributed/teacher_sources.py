"""One optimizer step of plain SGD with one teacher from several sources; saves the students. Run by test_sources.py."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from transformers import DataCollatorForSeq2Seq, TrainingArguments

from hf_distill import DistillationTrainer, LocalTeacher
from hf_distill.cache.teacher import CacheTeacher
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

LEARNING_RATE = 32.0
BY_LIKELIHOOD: dict[str, Any] = {"losses": [{"name": "alm", "weight": 100.0}], "plugins": ["tokenizers"]}


def local(placement: str) -> LocalTeacher:
    """The teacher itself; a fresh object for every trainer."""
    return LocalTeacher(
        tiny_model("llama", num_hidden_layers=4, seed=1), tokenizer=tiny_tokenizer(), placement=placement
    )


def other_tokenizer(placement: str) -> LocalTeacher:
    """A teacher that reads the same words in tokens of its own."""
    tokenizer = tiny_tokenizer(vocab_size=80)
    return LocalTeacher(tiny_model("llama", seed=1, vocab_size=80), tokenizer=tokenizer, placement=placement)


def step(teacher: Any, output: Path, *, accumulation: int = 2, **options: Any) -> DistillationTrainer:
    """Train one step on two examples a process and forward pass, and save."""
    AcceleratorState._reset_state()
    trainer = DistillationTrainer(
        model=tiny_model("llama", hidden_size=16),
        args=TrainingArguments(
            output_dir=str(output),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            optim="sgd",
            max_grad_norm=0.0,
            train_sampling_strategy="sequential",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        ),
        teacher=teacher,
        train_dataset=causal_lm_dataset(8),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        processing_class=tiny_tokenizer(),
        **{"losses": ["forward_kl"], **options},
    )
    trainer.train()
    trainer.save_model(str(output))
    return trainer


def main() -> None:
    """Resident, sharded, a cache filled from a sharded source, that cache alone; other text, and other tokens."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    step(local("resident"), output / "resident")
    step(local("sharded"), output / "sharded")
    step(CacheTeacher(output / "cache", source=local("sharded"), k=64), output / "filling")
    step(CacheTeacher(output / "cache"), output / "cached")
    step(other_tokenizer("sharded"), output / "other_tokenizer", **BY_LIKELIHOOD)
    own_text = {"name": "on_policy", "share": 1.0, "prompt_tokens": 3, "max_new_tokens": 4}
    trainer = step(local("sharded"), output / "on_policy", generator=own_text)
    trainer.end()


if __name__ == "__main__":
    main()
