"""`DistillationArguments`: the arguments of `transformers.Trainer`, and what distillation adds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments


@dataclass
class DistillationArguments(TrainingArguments):
    """Arguments of `DistillationTrainer`; a plain `TrainingArguments` and ``teacher=`` are enough to distil, too.

    Every field works from Python, from YAML and on the command line (nested ones as JSON). What is given to the
    trainer's constructor goes before what stands here.

    Example:
        >>> DistillationArguments(
        ...     output_dir="out",
        ...     teacher={"model": "path/to/teacher", "dtype": "bfloat16"},
        ...     losses=[{"name": "task", "weight": 1.0}, {"name": "forward_kl", "weight": 0.5, "temperature": 2.0}],
        ... )
    """

    # HfArgumentParser takes the second type of a union for the command line, which must be text.
    teacher: dict[str, Any] | str | list[Any] | None = field(
        default=None,
        metadata={
            "help": "A folder or hub name, or {kind, name, ...} with the options of that kind of teacher (kind "
            '"local" takes model, dtype, placement, ...), or a list of these, each with its own name.'
        },
    )
    losses: list[Any] | str | None = field(
        default=None,
        metadata={
            "help": "A list of {name, weight, temperature, teacher, ...}: the loss's name, its weight (a number or a "
            'schedule), and its options. "task" is the model\'s own loss on the labels. Default with a teacher: '
            '"task" and "forward_kl", weight 0.5 each.'
        },
    )
    selector: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Which data comes next: {name, ...}, for instance {name: mixture, weights: uniform}."},
    )
    generator: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Who writes training batches inside the loop: {name, ...}, for instance {name: on_policy, share: "
            "0.5}, where the student writes them itself."
        },
    )
    student: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "The student, where the trainer is given no model: a folder or hub name, or {builder, ...} to "
            "build one from the teacher."
        },
    )
    metrics: list[Any] | str | None = field(
        default=None,
        metadata={
            "help": 'What evaluations measure beside the losses: names or {name, ...options}, such as "accuracy" or '
            "{name: calibration, num_bins: 10}."
        },
    )
    plugins: list[str] | str | None = field(
        default=None,
        metadata={
            "help": "Paths of Python files, names of plugins to use though no component of theirs is named, and -NAME "
            "for those that must not be used."
        },
    )
    loss_memory_mb: int = field(
        default=240,
        metadata={
            "help": "Memory in MiB that losses on logits may take beside the head's gradient, whatever the batch."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        for name in ("teacher", "losses", "selector", "generator", "student", "metrics", "plugins"):
            setattr(self, name, plain(parse_nested(getattr(self, name), name), name))
        if isinstance(self.losses, str):
            self.losses = [self.losses]
        if isinstance(self.metrics, str):
            self.metrics = [self.metrics]
        if isinstance(self.plugins, str):
            self.plugins = [part.strip() for part in self.plugins.split(",")]
        if self.loss_memory_mb < 1:
            raise ValueError(f"loss_memory_mb is {self.loss_memory_mb}; expected at least 1.")


def parse_nested(value: Any, name: str) -> Any:
    """Command lines give nested values as JSON text; anything else passes through.

    Raises:
        ValueError: text that looks like JSON and is not.
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON ({error}): {value}") from error


def plain(value: Any, name: str) -> Any:
    """Refuse objects: arguments are written into every checkpoint, and a model among them would be, too.

    Raises:
        ValueError: `value` holds something else than text, numbers, lists and mappings.
    """
    try:
        json.dumps(value)
    except TypeError as error:
        raise ValueError(
            f"The argument {name} holds an object ({error}); arguments hold names and numbers. Give objects to the "
            f"trainer itself: DistillationTrainer(..., {name}=...)."
        ) from error
    return value
