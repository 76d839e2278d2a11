"""Runs in stages for experiments: quiet, seeded, in a folder that goes when they end."""

from __future__ import annotations

import functools
import gzip
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, DataCollatorWithPadding

from hf_distill import StagesDriver, TrainingData, load_student

from . import classifiers
from .frame import SHARED
from .training import train

DEFAULTS = {
    **{"per_device_train_batch_size": 32, "learning_rate": 3e-3, "lr_scheduler_type": "cosine", "weight_decay": 0.01},
    **{"logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "use_cpu": True},
    **{"dataloader_pin_memory": False, "optim": "adamw_torch_fused"},
}


def run_stages(
    stages: Sequence[Mapping[str, Any]],
    student: Callable[[], torch.nn.Module],
    *,
    seed: int,
    steps: int,
    plugins: Sequence[str] = (),
) -> torch.nn.Module:
    """The student after all stages, of `steps` optimizer steps together.

    Args:
        stages: as `StagesDriver` takes them.
        student: makes what the first stage begins with.
        seed: of the order of examples and of new weights.
        steps: shared equally.
        plugins: their names.
    """
    with tempfile.TemporaryDirectory() as folder:
        share = steps // len(stages)
        defaults = {**DEFAULTS, "seed": seed, "max_steps": share, "warmup_steps": max(1, share // 20)}
        driver = StagesDriver(stages, student=student, output_dir=folder, plugins=plugins, defaults=defaults)
        return load_student(driver.run().folder).eval()


def task_data(per_class: int, *, seed: int, labels: bool = True) -> TrainingData:
    """Some texts of each of the 45 intents, for a stage."""
    rows = classifiers.some_of_each(classifiers.data()["train"], per_class, seed=seed)
    rows = rows if labels else rows.remove_columns("labels")
    return TrainingData(rows, collator=DataCollatorWithPadding(classifiers.tokenizer()))


@functools.cache
def general_rows() -> Dataset:
    """Texts of CLINC150 from the other seven domains, without labels."""
    splits = json.loads(gzip.decompress((SHARED / "clinc150" / "data_full.json.gz").read_bytes()))
    known = set(classifiers.intents())
    found = classifiers.tokenizer()([text for text, intent in splits["train"] if intent not in known])
    return Dataset.from_dict({name: found[name] for name in ("input_ids", "attention_mask")})


def general_data(*, masked: bool = False) -> TrainingData:
    """The other domains' texts, for a stage; masked for the pre-training of encoders."""
    tokenizer = classifiers.tokenizer()
    collator = DataCollatorForLanguageModeling(tokenizer) if masked else DataCollatorWithPadding(tokenizer)
    return TrainingData(general_rows(), collator=collator)


def new_masked_lm(shape: Mapping[str, Any], *, seed: int) -> BertForMaskedLM:
    """A masked language model with random weights."""
    torch.manual_seed(seed)
    config = {"vocab_size": len(classifiers.tokenizer()), "max_position_embeddings": 64, "pad_token_id": 0}
    return BertForMaskedLM(BertConfig(**config, **shape))


@functools.cache
def pretrained_teacher() -> BertForMaskedLM:
    """A teacher of the classifiers' shape that has read the other domains' texts and seen no label."""
    teacher = new_masked_lm(classifiers.TEACHER, seed=0)
    collator = general_data(masked=True).collator
    train(
        teacher,
        ["task"],
        general_rows(),
        seed=0,
        steps=300,
        batch_size=32,
        learning_rate=1e-3,
        data_collator=collator,
    )
    return teacher
