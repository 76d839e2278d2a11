"""What a loss is. A row loss may be a plain function; these classes are for state, parameters and features."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batch.signals import Batch, Signal, StepInfo
from .papers import Paper


class Loss(nn.Module):
    """What both kinds of loss share: a set-up with the models at hand, and a clock.

    Parameters and buffers of a loss are trained, synchronised, saved and resumed like the student's own. What only some
    losses need is in `hf_distill.losses.mixins`.

    Attributes:
        paper: where the loss comes from; None says that there is no paper.
        columns: data set columns that it reads from `Batch.extras`.
        label: what it is called in this run, and its mean in `StepInfo.losses`; set by the trainer.
    """

    paper: ClassVar[Paper | None]
    columns: tuple[str, ...] = ()
    label: str = ""

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Check the models and create what depends on them; runs once, before the optimizer exists.

        Args:
            student: the student, unwrapped.
            teacher: the teacher's model, or None where the teacher is not a model (a cache, a server).
            tokenizer: the student's tokenizer, where the trainer was given one.

        Raises:
            ValueError: the models lack what the loss needs; says what was found and what to do.
        """

    def on_step_end(self, info: StepInfo) -> None:
        """Move state that follows the training's clock; called once per optimizer step, equally on all processes."""

    @property
    def has_step_state(self) -> bool:
        """Whether `on_step_end` does anything; the statistics that it is given cost a reduction a step."""
        return type(self).on_step_end is not Loss.on_step_end


class RowLoss(Loss):
    """Compares two categorical distributions row by row.

    `forward(student_logits, teacher_logits)` takes two ``[n, V]`` tensors, a chunk of rows, already divided by the
    temperature, and returns ``[n]`` float32. A parameter named ``labels`` gets the rows' targets ``[n]``
    (`IGNORE_INDEX` where there is none), one named ``temperature`` the temperature. The engine chunks, masks, weighs,
    sums and differentiates.

    A loss that is configured with several teachers (``teacher: [a, b]``) gets the logits of each, in this order, and
    the first one's model in `setup`. Each of `columns` comes by keyword, ``[n]``: an example's value for all of its
    rows, or one value a position.

    What a cache holds is written out as whole logits, a few rows at a time. A loss that can do without defines
    ``on_sparse(student_logits, teacher)``, where the teacher is a `SparseRows` of the same V and temperature.

    Attributes:
        accepts_one_column: whether it compares the logits themselves, so that it teaches something where there is one
            output column, whose softmax is always 1 (regression).
    """

    accepts_one_column: bool = False


class BatchLoss(Loss):
    """Compares the whole signals of student and teacher: features, relations between positions or examples.

    `forward(student, teacher, batch)` returns the **sum** of its values over the micro-batch, or several named sums.
    What the sum is divided by must be known before any forward pass (the gradient of a step must not depend on how
    the step is cut), so it is counted from the batch alone by `count`.

    Attributes:
        items: what the sum runs over, "rows", "tokens" or "examples".
        student_taps, teacher_taps: features to capture (names: `hf_distill.models.features`); may be set in `setup`.
        needs_teacher: whether there must be a teacher at all.
        needs_teacher_rows, needs_student_rows: whether predictions are read too.
    """

    items: ClassVar[str] = "tokens"
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    needs_teacher: bool = True
    needs_student_rows: bool = False
    needs_teacher_rows: bool = False

    def count(self, batch: Batch) -> Tensor:
        """How many items the sum of this micro-batch runs over."""
        return batch.count(self.items)

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor | Mapping[str, Tensor]:
        """The sum over the micro-batch, or several named sums that share the count."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(student, teacher, batch).")
