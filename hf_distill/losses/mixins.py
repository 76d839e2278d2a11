"""What some losses need beyond the rest; a loss names those that it uses before `BatchLoss` (or `RowLoss`).

class Margins(NestedBatchMixin, BatchLoss): ...
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..batch.signals import Batch, Signal
from ..batch.views import TeacherView


class NestedBatchMixin:
    """A `BatchLoss` of batches that hold several: queries and documents, two views of each example.

    Attributes:
        student_parts, teacher_parts: which parts of a nested batch each model is run on; the signals then have a signal
            for each of them (`Signal.parts`), and nothing for the batch around them. All passes of the student are one
            pass of the wrapper around it (DDP, ZeRO), and parts that several losses read are run once.
    """

    student_parts: tuple[str, ...] = ()
    teacher_parts: tuple[str, ...] = ()

    def predictions(self, student: Signal, batch: Batch) -> Tensor | None:
        """What the student predicts of a nested batch, ``[B, ...]``: what ``compute_metrics`` gets for its labels.

        The first loss that gives some is taken. None, the default, leaves it to the others.
        """
        return None


class GradientMergingMixin:
    """A `BatchLoss` whose gradient is kept apart from that of all other losses, until `merge_gradients` joins them.

    Costs a second backward pass of what it reads, and memory for a second gradient; one loss of a run may, and there
    must be others. Not under DeepSpeed and FSDP, which divide gradients up.

    Attributes:
        separate_gradients: whether it is done in this run; an option of the loss may turn it off.
    """

    separate_gradients: bool = True

    def merge_gradients(self, gradients: Sequence[Tensor], other_gradients: Sequence[Tensor]) -> Sequence[Tensor]:
        """What the optimizer gets, from this loss's gradient and that of all others; by default their sum.

        Called once per optimizer step, before clipping, equally on all processes: gradients are those of the whole
        step, over all micro-batches and processes, and contain the losses' weights.

        Args:
            gradients: a tensor for each parameter that is trained.
            other_gradients: the same of the sum of all other losses.
        """
        return [gradient + other for gradient, other in zip(gradients, other_gradients, strict=True)]


class TeacherViewMixin:
    """A `BatchLoss` whose teacher sees something else than the student does: the same text in other tokens, say.

    Attributes:
        view: how its teacher sees a batch; set to what `make_teacher_view` gives.
    """

    view: TeacherView | None = None

    def make_teacher_view(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        *,
        teacher: str,
    ) -> TeacherView | None:
        """How the teacher is to see a batch; called once, before `setup`.

        None is: as the student does. Then both must have the same tokenizer, and the trainer refuses others. A loss
        that gives a view accepts any that the view can bridge.

        Args:
            tokenizer: the student's, where the trainer was given one.
            teacher_tokenizer: the teacher's, where known.
            teacher: what the teacher is called in this run.

        Raises:
            ValueError: there can be no such view of these tokenizers; says what to do.
        """
        raise NotImplementedError(
            f"{type(self).__name__} does not define make_teacher_view(tokenizer, teacher_tokenizer, teacher)."
        )


class TrainDatasetMixin:
    """A loss of either kind that needs statistics of the training data: how many examples there are of a class."""

    def on_train_dataset(self, dataset: Any) -> None:
        """Look at the training data once.

        Called when the trainer is built, after `setup`, equally on all processes; not where there is no training data.
        A resumed run loads buffers over what was found here.

        Args:
            dataset: the trainer's ``train_dataset``, before it is shuffled or collated.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define on_train_dataset(dataset).")


# By what each is recognised where a loss forgot to name it.
_MEMBERS = {
    NestedBatchMixin: ("student_parts", "teacher_parts"),
    GradientMergingMixin: ("separate_gradients", "merge_gradients"),
    TeacherViewMixin: ("make_teacher_view",),
    TrainDatasetMixin: ("on_train_dataset",),
}


def check_mixins(loss: object, label: str) -> None:
    """Refuse a loss that defines what would never be called.

    Raises:
        ValueError: it defines members of a mixin that it does not derive from.
    """
    for mixin, members in _MEMBERS.items():
        defined = [name for name in members if hasattr(loss, name)]
        if defined and not isinstance(loss, mixin):
            name = type(loss).__name__
            raise ValueError(
                f"The loss {label!r} defines {defined[0]}, which is only read of losses that derive from "
                f"{mixin.__name__}. Write: class {name}({mixin.__name__}, {type(loss).__bases__[0].__name__})."
            )
