"""Batch generators at work in a trainer: what they are given, and when."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..batch.signals import Rows
from ..batch.views import add_views
from ..data.on_policy import RowFunction
from ..losses.engine import row_values
from ..models.forward import run_in_forward
from .step import student_rows

if TYPE_CHECKING:
    from ..trainer import DistillationTrainer


class TrainerModels:
    """The models of a trainer for one micro-batch; see `hf_distill.data.on_policy.LoopModels`.

    Args:
        trainer: the trainer.
        index: of the micro-batch within the optimizer step.
    """

    def __init__(self, trainer: DistillationTrainer, index: int) -> None:
        self._trainer = trainer
        self._seed = hash((trainer.args.seed, trainer.state.global_step, index)) % 2**31
        self._random = random.Random(self._seed)
        tokenizer = trainer.processing_class
        self.tokenizer = tokenizer if isinstance(tokenizer, PreTrainedTokenizerBase) else None

    def share(self) -> float:
        """See `LoopModels.share`."""
        return self._random.random()

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """See `LoopModels.generate`; sampling leaves the run's own random numbers alone."""
        student: Any = self._trainer.student
        devices = [student.device] if student.device.type == "cuda" else []
        with _evaluating(student), torch.random.fork_rng(devices), self._trainer.compute_loss_context_manager():
            torch.manual_seed(self._seed + self._trainer.args.process_index)
            generated: Tensor = student.generate(input_ids=input_ids, attention_mask=attention_mask, **options)
        return generated

    @torch.no_grad()
    def compare(self, inputs: Mapping[str, Tensor], *functions: RowFunction) -> list[Tensor]:
        """See `LoopModels.compare`."""
        trainer = self._trainer
        batch = trainer.batch_reader.read({k: v for k, v in inputs.items() if k != "labels"})
        name, teacher = next(iter(trainer.plan.teachers.items()))
        theirs = teacher.signal(batch).rows
        assert theirs is not None
        theirs = trainer.distillation_step.shared_rows(name, theirs.select(batch.token_mask))
        wrapper, student = trainer.model_wrapped, trainer.student

        def inside(forward: Any) -> list[Tensor]:
            ours: Rows = student_rows(forward, student, batch.inputs, trainer.plan.head)[0]
            return row_values(ours.select(batch.token_mask), theirs, functions, memory=trainer.plan.memory)

        with _evaluating(student), trainer.compute_loss_context_manager():
            flat = run_in_forward(wrapper, student, inside)
        placed = [torch.zeros(batch.token_mask.shape, dtype=one.dtype, device=one.device) for one in flat]
        for whole, values in zip(placed, flat, strict=True):
            whole[batch.token_mask] = values
        return placed


def rewrite(trainer: DistillationTrainer, batches: list[Any]) -> list[Any]:
    """The micro-batches of one optimizer step as the trainer's batch generator makes them."""
    generator = trainer.plan.generator
    assert generator is not None
    inputs = [trainer._prepare_inputs(batch) for batch in batches]
    written = [generator.rewrite(dict(one), TrainerModels(trainer, index)) for index, one in enumerate(inputs)]
    views = trainer.plan.views
    return [trainer._prepare_inputs(add_views(one, views)) for one in written] if views else written


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
