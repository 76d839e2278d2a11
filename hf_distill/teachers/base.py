"""What a teacher is: a source of signals. Where it gets them is its own business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from accelerate import Accelerator
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..batch.signals import Batch, Signal


class Teacher(ABC):
    """Says what it thinks of a batch.

    A teacher is frozen, never part of the student's state, and never registered with accelerate.

    Attributes:
        columns: data set columns that it needs beside the student's inputs; they arrive in `Batch.extras`.
        model: the teacher's model where it has one on this machine, else None.
        tokenizer: its tokenizer where known; vocabularies are compared by it.
        vocab_size: width of its logits, or None where it gives none.
    """

    columns: tuple[str, ...] = ()
    model: nn.Module | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    vocab_size: int | None = None

    def weights(self) -> nn.Module | None:
        """The model that a student can be built from; by default its own."""
        return self.model

    def prepare(self, accelerator: Accelerator) -> None:  # noqa: B027 - most teachers are where they are needed
        """Move to where the signals are needed; called once, when the trainer is built, on every process."""

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:  # noqa: B027 - vocabularies are compared anyway
        """Refuse a student's tokenizer that the teacher's signals are not for; called once, where it is known.

        Raises:
            ValueError: it makes other tokens than the teacher was asked about.
        """

    def close(self) -> None:  # noqa: B027 - most teachers hold nothing
        """Training ended, by itself or not, or an evaluation outside of one: write what waits; may be asked again."""

    @abstractmethod
    def request(self, *, rows: bool, taps: Sequence[str]) -> None:
        """Say once what every signal must hold: predictions, and features by tap name."""

    @abstractmethod
    def signal(self, batch: Batch) -> Signal:
        """The signal for one micro-batch, without gradients.

        Called once per micro-batch and process, only where an active loss needs it. Under ZeRO-3 the call is
        collective.
        """
