"""What the conformance kit tries: a loss, the tiny models and the data around it, and trainings made of them."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    PreTrainedModel,
    TrainingArguments,
    default_data_collator,
)

from ..batch.signals import IGNORE_INDEX
from ..losses.base import BatchLoss
from ..plugins.manager import Plugins
from ..plugins.registry import Component, Registry
from ..students import transform
from ..trainer import DistillationTrainer
from .data import causal_lm_dataset, classification_dataset, tiny_tokenizer
from .models import tiny_inputs, tiny_model

NUM_EXAMPLES = 4
TEMPERATURE = 2.0


@dataclass(frozen=True)
class Subject:
    """A loss and what it is tried with.

    Args:
        component: the name of a registered loss, or the loss itself: a row loss, a loss object, or what makes one.
        plugins: what to activate, so that the name is known.
        options: of the loss.
        reference: what its values must be.
        student: options of `tiny_model`, "family" among them; "transforms" is a list of those that are applied to it,
            each a mapping of name and options.
        teacher: the same of the teacher.
        columns: further columns of the data, a value for each of the four examples.
        num_teachers: how many teachers the loss takes.
        data: makes four examples and their collator; by default what the student's family takes.

    Raises:
        ValueError: an unknown name or option; options of a finished object; a column of another length.
    """

    component: Any
    plugins: Sequence[Any]
    options: Mapping[str, Any]
    reference: Callable[..., Any] | None
    student: Mapping[str, Any]
    teacher: Mapping[str, Any]
    columns: Mapping[str, Sequence[Any]]
    num_teachers: int = 1
    data: Callable[[], tuple[Dataset, Callable[..., Any]]] | None = None

    def __post_init__(self) -> None:
        for name, values in self.columns.items():
            if len(values) != NUM_EXAMPLES:
                raise ValueError(f"The column {name!r} has {len(values)} values; the kit has {NUM_EXAMPLES} examples.")
        if isinstance(self.component, nn.Module) and self.options:
            raise ValueError(f"{self.name} is a finished object, which takes no options; give its class instead.")

    @functools.cached_property
    def registry(self) -> Registry:
        """Where the component is registered: by its plugin, or here."""
        if isinstance(self.component, str):
            return Plugins(self.plugins).losses
        registry = Registry("loss")
        registry.add(Component("losses", "loss", self.name, self.component, package="the test"))
        return registry

    @property
    def name(self) -> str:
        """What the loss is called, in snake_case as registries want it: `TotalVariation` is "total_variation"."""
        if isinstance(self.component, str):
            return self.component
        own: str = getattr(self.component, "__name__", None) or type(self.component).__name__
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|^_+|[^\w]", lambda match: "" if match[0] else "_", own).lower()

    @property
    def source(self) -> str:
        """What errors say about where it comes from."""
        return str(self.registry.get(self.name)) if isinstance(self.component, str) else "the training script"

    def make(self) -> Callable[..., Any]:
        """The loss, new."""
        if isinstance(self.component, nn.Module):
            return copy.deepcopy(self.component)
        made: Callable[..., Any] = self.registry.create(self.name, self.options)
        return made

    @functools.cached_property
    def is_batch_loss(self) -> bool:
        """Whether it sees whole signals rather than rows of logits."""
        return isinstance(self.make(), BatchLoss)

    def models(self) -> tuple[PreTrainedModel, list[PreTrainedModel]]:
        """Student and teachers."""
        seed = self.teacher.get("seed", 0)
        teachers = [tiny_model(**{**self.teacher, "seed": seed + index}) for index in range(self.num_teachers)]
        options = dict(self.student)
        transforms = options.pop("transforms", ())
        student = tiny_model(**options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.get("seed", 0))
            for one in transforms:
                transform(student, plugins=Plugins(self.plugins), **one)
        return student, teachers

    def trainer(
        self,
        folder: str | Path,
        *,
        models: tuple[nn.Module, Sequence[nn.Module]] | None = None,
        micro_batch: int = NUM_EXAMPLES,
        accumulation: int = 1,
        **arguments: Any,
    ) -> DistillationTrainer:
        """A trainer of a tiny student with this loss alone, at temperature 2 if it has one.

        Args:
            folder: where it writes.
            models: student and teachers; by default those of `models`.
            micro_batch: examples of one forward pass and process.
            accumulation: forward passes of an optimizer step.
            **arguments: of `TrainingArguments`.
        """
        student, teachers = models or self.models()
        tokenizer = tiny_tokenizer()
        named = [
            {"name": f"teacher{index}", "model": teacher, "tokenizer": tokenizer}
            for index, teacher in enumerate(teachers)
        ]
        # A batch loss may have a temperature of its own among its options.
        spec: dict[str, Any] = {} if self.is_batch_loss else {"temperature": TEMPERATURE}
        spec["teacher"] = [one["name"] for one in named]
        if isinstance(self.component, str):
            spec |= {"name": self.component, **self.options}
        else:
            spec |= {"name": self.name, "function": self.make()}
        dataset, collator = self._data()
        defaults: dict[str, Any] = {
            **{"save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True},
            **{"train_sampling_strategy": "sequential", "max_grad_norm": 0.0, "lr_scheduler_type": "constant"},
        }
        return DistillationTrainer(
            student,
            TrainingArguments(
                output_dir=str(folder),
                per_device_train_batch_size=micro_batch,
                gradient_accumulation_steps=accumulation,
                **defaults | arguments,
            ),
            teacher=named,
            losses=[spec],
            plugins=self.plugins,
            train_dataset=dataset,
            data_collator=collator,
            processing_class=tokenizer,
        )

    def _data(self) -> tuple[Dataset, Callable[..., Any]]:
        """Four examples that the student takes, of different lengths, and a collator that pads no more than it must."""
        if self.data is not None:
            return self.data()
        family = self.student["family"]
        collator: Callable[..., Any]
        if family in ("vit", "deit"):
            pixels = tiny_inputs(self.models()[0], num_examples=NUM_EXAMPLES)["pixel_values"]
            rows = [{"pixel_values": image.tolist(), "labels": index % 3} for index, image in enumerate(pixels)]
            dataset, collator = Dataset.from_list(rows), default_data_collator
        elif "classifier" in family:
            dataset, collator = classification_dataset(NUM_EXAMPLES), DataCollatorWithPadding(tiny_tokenizer())
        else:
            dataset = causal_lm_dataset(NUM_EXAMPLES)
            if family == "bert_tokens":
                dataset = dataset.map(lambda row: {"labels": [token % 3 for token in row["input_ids"]]})
            collator = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=IGNORE_INDEX)
        for name, values in self.columns.items():
            dataset = dataset.add_column(name, list(values))
        return dataset, collator
