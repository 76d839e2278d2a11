"""What the parts of a training may use of it; the trainer itself, and the methods of `Trainer`, they never see."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase, TrainingArguments

from ..batch.reader import BatchReader
from ..batch.signals import Rows, SparseRows
from .plan import Plan


@dataclass(frozen=True, kw_only=True)
class TrainingContext:
    """A training as its parts see it. The trainer makes one whenever it calls a part, since wrappers come and go.

    Attributes:
        plan: teachers, losses, selector and generator.
        args: the trainer's arguments.
        accelerator: of the run.
        tokenizer: the student's, where the trainer was given one.
        student: the student without wrappers.
        wrapper: the student as the trainer calls it (DDP, DeepSpeed, FSDP), or itself.
        reader: finds rows and labels in a batch.
        global_step: optimizer steps finished.
        prepare_inputs: puts a collated batch on the device.
        autocast: the context in which models run in the precision of the run.
        shared_rows: cuts a teacher's rows, by its name, to the columns that the student has too.
    """

    plan: Plan
    args: TrainingArguments
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase | None
    student: nn.Module
    wrapper: nn.Module
    reader: BatchReader
    global_step: int
    prepare_inputs: Callable[[Any], Any]
    autocast: Callable[[], AbstractContextManager[Any]]
    shared_rows: Callable[[str, Rows | SparseRows], Rows | SparseRows]
