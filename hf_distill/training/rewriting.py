"""Batch generators at work in a trainer: what they are given, and when."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ..batch.signals import Rows
from ..batch.views import add_views
from ..data.on_policy import RowFunction
from ..losses.engine import row_values
from ..models.forward import run_in_forward
from .context import TrainingContext
from .step import student_rows


class TrainingModels:
    """The models of a training for one micro-batch; see `hf_distill.data.on_policy.LoopModels`.

    Args:
        context: of the training.
        index: of the micro-batch within the optimizer step.
    """

    def __init__(self, context: TrainingContext, index: int) -> None:
        self._context = context
        self._seed = hash((context.args.seed, context.global_step, index)) % 2**31
        self._random = random.Random(self._seed)
        self.tokenizer = context.tokenizer

    def share(self) -> float:
        """See `LoopModels.share`."""
        return self._random.random()

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """See `LoopModels.generate`; sampling leaves the run's own random numbers alone."""
        student: Any = self._context.student
        devices = [student.device] if student.device.type == "cuda" else []
        with _evaluating(student), torch.random.fork_rng(devices), self._context.autocast():
            torch.manual_seed(self._seed + self._context.args.process_index)
            generated: Tensor = student.generate(input_ids=input_ids, attention_mask=attention_mask, **options)
        return generated

    @torch.no_grad()
    def compare(self, inputs: Mapping[str, Tensor], *functions: RowFunction) -> list[Tensor]:
        """See `LoopModels.compare`."""
        context = self._context
        batch = context.reader.read({k: v for k, v in inputs.items() if k != "labels"})
        name, teacher = next(iter(context.plan.teachers.items()))
        teacher_rows = teacher.signal(batch).rows
        assert teacher_rows is not None
        teacher_rows = context.shared_rows(name, teacher_rows.select(batch.token_mask))
        student = context.student

        def inside(forward: Any) -> list[Tensor]:
            rows: Rows = student_rows(forward, student, batch.inputs, context.plan.head)[0]
            return row_values(rows.select(batch.token_mask), teacher_rows, functions, memory=context.plan.memory)

        with _evaluating(student), context.autocast():
            flat = run_in_forward(context.wrapper, student, inside)
        placed = [torch.zeros(batch.token_mask.shape, dtype=values.dtype, device=values.device) for values in flat]
        for whole, values in zip(placed, flat, strict=True):
            whole[batch.token_mask] = values
        return placed


def rewrite(context: TrainingContext, batches: list[Any]) -> list[Any]:
    """The micro-batches of one optimizer step as the plan's batch generator makes them."""
    generator, views = context.plan.generator, context.plan.views
    assert generator is not None
    inputs = [context.prepare_inputs(batch) for batch in batches]
    written = [generator.rewrite(dict(batch), TrainingModels(context, index)) for index, batch in enumerate(inputs)]
    return [context.prepare_inputs(add_views(batch, views)) for batch in written] if views else written


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
