"""What a loss is. A row loss may be a plain function; these classes are for state, parameters and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batch.signals import Batch, Signal, StepInfo
from ..batch.views import TeacherView


class Loss(nn.Module):
    """What both kinds of loss share: a set-up with the models at hand, and a clock.

    Parameters and buffers of a loss are trained, synchronised, saved and resumed like the student's own.

    Attributes:
        columns: data set columns that it reads from `Batch.extras`.
        label: what it is called in this run, and its mean in `StepInfo.losses`; set by the trainer.
    """

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

    def on_train_dataset(self, dataset: Any) -> None:
        """Look at the training data once, where the loss needs its statistics (how many examples there are of a class).

        Called when the trainer is built, after `setup`, equally on all processes; not where there is no training data.
        A resumed run loads buffers over what was found here.

        Args:
            dataset: the trainer's ``train_dataset``, before it is shuffled or collated.
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
    """


class BatchLoss(Loss):
    """Compares the whole signals of student and teacher: features, relations between positions or examples.

    `forward(student, teacher, batch)` returns the **sum** of its values over the micro-batch, or several named sums.
    What the sum is divided by must be known before any forward pass (the gradient of a step must not depend on how
    the step is cut), so it is counted from the batch alone by `count`.

    Attributes:
        items: what the sum runs over, "rows", "tokens" or "examples".
        student_taps, teacher_taps: features to capture (names: `hf_distill.models.features`); may be set in `setup`.
        student_parts, teacher_parts: which parts of a nested batch each model is run on; the signals then have a signal
            for each of them (`Signal.parts`), and nothing for the batch around them. All passes of the student are one
            pass of the wrapper around it (DDP, ZeRO), and parts that several losses read are run once. A loss of flat
            batches names none.
        needs_teacher: whether there must be a teacher at all.
        needs_teacher_rows, needs_student_rows: whether predictions are read too.
        separate_gradients: whether the gradient of this loss is kept apart from that of all others, for
            `merge_gradients`. Costs a second backward pass of what it reads, and memory for a second gradient; one
            loss of a run may, and there must be others. Not under DeepSpeed and FSDP, which divide gradients up.
        view: how its teacher sees a batch, where not as the student does; set to what `make_teacher_view` gives.
    """

    items: ClassVar[str] = "tokens"
    student_taps: tuple[str, ...] = ()
    teacher_taps: tuple[str, ...] = ()
    student_parts: tuple[str, ...] = ()
    teacher_parts: tuple[str, ...] = ()
    needs_teacher: bool = True
    needs_student_rows: bool = False
    needs_teacher_rows: bool = False
    separate_gradients: bool = False
    view: TeacherView | None = None

    def make_teacher_view(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        *,
        teacher: str,
    ) -> TeacherView | None:
        """How the teacher is to see a batch; called once, before `setup`.

        None, the default, is: as the student does. Then both must have the same tokenizer, and the trainer refuses
        others. A loss that gives a view accepts any that the view can bridge.

        Args:
            tokenizer: the student's, where the trainer was given one.
            teacher_tokenizer: the teacher's, where known.
            teacher: what the teacher is called in this run.

        Raises:
            ValueError: there can be no such view of these tokenizers; says what to do.
        """
        return None

    def merge_gradients(self, own: Sequence[Tensor], others: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the optimizer gets, from this loss's gradient and that of all others; by default their sum.

        Called once per optimizer step, before clipping, equally on all processes: gradients are those of the whole
        step, over all micro-batches and processes, and contain the losses' weights.

        Args:
            own: a tensor for each parameter that is trained.
            others: the same of the sum of all other losses.
        """
        return [mine + theirs for mine, theirs in zip(own, others, strict=True)]

    def count(self, batch: Batch) -> Tensor:
        """How many items the sum of this micro-batch runs over."""
        return batch.count(self.items)

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor | Mapping[str, Tensor]:
        """The sum over the micro-batch, or several named sums that share the count."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward(student, teacher, batch).")

    def predictions(self, student: Signal, batch: Batch) -> Tensor | None:
        """What the student predicts of a nested batch, ``[B, ...]``: what ``compute_metrics`` gets for its labels.

        The first loss that gives some is taken. None, the default, leaves it to the others.
        """
        return None
