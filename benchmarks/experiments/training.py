"""Quiet, seeded training on one core, which all experiments share."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import datasets
import torch
import transformers
from transformers import PrinterCallback, set_seed

from hf_distill import DistillationArguments, DistillationTrainer

P, R = ParamSpec("P"), TypeVar("R")

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
datasets.disable_progress_bars()


def train(
    student: torch.nn.Module,
    losses: Sequence[Any],
    dataset: datasets.Dataset,
    *,
    seed: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
    teacher: Any = None,
    plugins: Sequence[Any] = (),
    arguments: Mapping[str, Any] | None = None,
    **trainer_arguments: Any,
) -> DistillationTrainer:
    """Train `student` in place, with AdamW and a cosine schedule, and give the finished trainer.

    Args:
        student: starts as it is.
        losses: as `DistillationTrainer` takes them.
        dataset: what is trained on.
        seed: of the order of the examples and whatever else is drawn.
        steps: of the optimizer.
        batch_size: examples a step.
        learning_rate: its peak, after a twentieth of the steps.
        teacher: as `DistillationTrainer` takes it.
        plugins: their names.
        arguments: further fields of `DistillationArguments`, or others than those above.
        trainer_arguments: of `DistillationTrainer` (data_collator, selector, callbacks ...).
    """
    set_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        fields = {
            "output_dir": folder,
            "max_steps": steps,
            "per_device_train_batch_size": batch_size,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "warmup_steps": max(1, steps // 20),
            "optim": "adamw_torch_fused",
            "weight_decay": 0.01,
            "logging_strategy": "no",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": seed,
            "dataloader_pin_memory": False,
        }
        trainer = DistillationTrainer(
            student,
            DistillationArguments(**{**fields, **(arguments or {})}),
            teacher=teacher,
            losses=losses,
            plugins=plugins,
            train_dataset=dataset,
            **trainer_arguments,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    student.eval()
    return trainer


def remembered(function: Callable[P, R]) -> Callable[P, R]:
    """Give again what the same arguments gave in this process: experiments share baselines.

    Arguments that JSON cannot hold (a loss function, a teacher object) are never remembered.
    """
    known: dict[str, R] = {}

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            key = json.dumps([args, kwargs], sort_keys=True)
        except TypeError:
            return function(*args, **kwargs)
        if key not in known:
            known[key] = function(*args, **kwargs)
        return known[key]

    call.__doc__ = function.__doc__
    return call
