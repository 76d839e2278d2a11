"""Contrastive representation distillation: student and teacher recognise each other's view of an example among many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, Float32Linear, Paper, Signal, StepInfo, hidden_width

from .memory import ContrastMemory
from .pooled import PooledLoss, examples_present


class CRD(PooledLoss):
    """Noise-contrastive estimation between embeddings of both models, with a memory of all training examples.

    Each model's vector of an example is mapped to `width` dimensions and to length one; a memory holds the last ones of
    all examples. The student's vector is to score high with the teacher's memory of the same example and low with that
    of others, and the other way round. Needs a column that numbers the training examples from 0.

    Paper: Tian et al. 2020, "Contrastive Representation Distillation", arXiv:1910.10699, with the official code's
    memory, normalisation constants and estimate of h. Deviations: negatives are drawn among all other examples, while
    the official code for labelled data leaves out those of the same class; an example is never its own negative; the
    memory moves once per optimizer step, not with every forward pass; in evaluation the positive is the other model's
    vector, for the memory does not know those examples.

    Drawn negatives differ from call to call, and the normalisation constants are those of each micro-batch during the
    first step. The memory is the same on all processes, whose micro-batches must have equal sizes, and in checkpoints.

    Args:
        num_examples: N, of the training set.
        column: of the training set; the numbers 0 to N - 1.
        num_negatives: K.
        width: of the embeddings and of the memory, which holds 2 N vectors.
        contrast_temperature: scores are divided by it.
        momentum: share of the old vector that stays in the memory.
        layers: one pair of blocks, by default the last ones.
        pooling: see `PooledLoss`; not "flatten".
        stack: see `PooledLoss`.

    Raises:
        ValueError: an option out of its range.
    """

    paper = Paper("Tian et al.", 2020, title="Contrastive Representation Distillation", name="CRD", arxiv="1910.10699")

    def __init__(
        self,
        *,
        num_examples: int,
        column: str = "example_id",
        num_negatives: int = 16384,
        width: int = 128,
        contrast_temperature: float = 0.07,
        momentum: float = 0.5,
        layers: Sequence[Sequence[int]] = ((-1, -1),),
        pooling: str = "mean",
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, pooling=pooling, stack=stack)
        if num_examples < 2 or num_negatives < 1:
            raise ValueError(
                f"num_examples is {num_examples}, num_negatives {num_negatives}; expected at least 2 and at least 1."
            )
        if not (contrast_temperature > 0 and 0 <= momentum < 1):
            raise ValueError(
                f"contrast_temperature is {contrast_temperature}, momentum {momentum}; expected a positive number "
                "and one from 0 to below 1."
            )
        if isinstance(layers, str) or len(layers) != 1 or pooling == "flatten":
            raise ValueError(
                f"layers is {layers!r} and pooling {pooling!r}; the memory holds one vector of a fixed width: expected "
                "one pair of layers, and mean, first or last."
            )
        self.column, self.columns = column, (column,)
        self.num_examples, self.width = num_examples, width
        self.options: dict[str, Any] = {
            "num_negatives": num_negatives,
            "temperature": contrast_temperature,
            "momentum": momentum,
        }

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the layers, make the maps and the memory.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        super().setup(student, teacher, tokenizer)
        assert teacher is not None  # checked above
        self.student_map = Float32Linear(hidden_width(student, self.stack or ""), self.width)
        self.teacher_map = Float32Linear(hidden_width(teacher, self.stack or ""), self.width)
        self.memory = ContrastMemory(self.num_examples, self.width, **self.options)

    def on_step_end(self, info: StepInfo) -> None:
        """Move the memory."""
        self.memory.advance()

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Sum over the examples.

        Raises:
            ValueError: a training batch lacks the column, or it holds other numbers.
        """
        present = examples_present(batch)
        with torch.autocast(present.device.type, enabled=False):
            ((student_vectors, teacher_vectors),) = self.vectors(student, teacher, batch)
            student_vectors = nn.functional.normalize(self.student_map(student_vectors), dim=1)
            teacher_vectors = nn.functional.normalize(self.teacher_map(teacher_vectors), dim=1)
            values = self.memory(student_vectors, teacher_vectors, self._ids(batch, present), present)
        return torch.where(present, values, 0).sum()

    def _ids(self, batch: Batch, present: Tensor) -> Tensor:
        if not self.training:
            return torch.zeros(len(present), dtype=torch.long, device=present.device)
        ids = batch.extras.get(self.column)
        if not isinstance(ids, Tensor) or ids.is_floating_point():
            raise ValueError(
                f"crd keeps a memory of the training examples: the column {self.column!r} must number them from 0, but "
                f"the batch has {ids!r}. Add it: dataset.add_column({self.column!r}, range(len(dataset)))."
            )
        # Elsewhere indexing itself stops a number that is too large, and to ask would make every step wait.
        if ids.device.type == "cpu" and not (0 <= ids.min() and ids.max() < self.num_examples):
            raise ValueError(
                f"The column {self.column!r} has numbers from {ids.min()} to {ids.max()}; expected 0 to "
                f"{self.num_examples - 1}, since num_examples is {self.num_examples}."
            )
        return ids.long()
