"""What losses for two tokenizers share: the view, and what they ask of the models."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_distill import Batch, BatchLoss, TeacherViewMixin

from .view import TeacherTokenView


class BridgingLoss(TeacherViewMixin, BatchLoss):
    """A loss whose teacher reads the same text in tokens of its own.

    Args:
        words: whether chunks end only where words do.
        max_length: tokens that the teacher reads of a sequence; by default as many as its tokenizer allows.
        messages: the column with conversations, for the teacher to read in its own chat template.
    """

    items: ClassVar[str] = "rows"  # a sum over chunks or pairs of them
    needs_student_rows = True
    needs_teacher_rows = True
    view: TeacherTokenView

    def __init__(self, *, words: bool = False, max_length: int | None = None, messages: str | None = None) -> None:
        super().__init__()
        if max_length is not None and max_length < 2:
            raise ValueError(f"max_length is {max_length}; expected at least two tokens, one to predict.")
        self.words, self.max_length, self.messages = words, max_length, messages
        self.columns = () if messages is None else (messages,)

    def make_teacher_view(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        teacher_tokenizer: PreTrainedTokenizerBase | None,
        *,
        teacher: str,
    ) -> TeacherTokenView:
        """The text of the batch in the teacher's tokens.

        Raises:
            ValueError: one of the tokenizers is not known, or its tokens do not say which bytes they stand for.
        """
        if tokenizer is None or teacher_tokenizer is None:
            owner = "student's" if tokenizer is None else "teacher's"
            remedy = "processing_class=tokenizer" if tokenizer is None else "teacher={'model': ..., 'tokenizer': ...}"
            raise ValueError(
                f"{self.label!r} aligns the tokens of student and teacher, but the {owner} tokenizer is not known. "
                f"Give the trainer {remedy}."
            )
        options = {"words": self.words, "max_length": self.max_length, "messages": self.messages}
        return TeacherTokenView(tokenizer, teacher_tokenizer, teacher, **options)  # type: ignore[arg-type]

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Refuse models that do not predict the next token, and those that the tokenizer is not for.

        Raises:
            ValueError: the student is an encoder-decoder, predicts masked tokens or classes, or knows fewer tokens than
                its tokenizer.
        """
        name, config = type(student).__name__, getattr(student, "config", None)
        other = any(part in name for part in ("MaskedLM", "Classification", "MultipleChoice"))
        if other or getattr(config, "is_encoder_decoder", False):
            raise ValueError(
                f"{self.label!r} compares likelihoods of text, token after token, but the student is a {name}. Use a "
                "causal language model."
            )
        size = getattr(config, "vocab_size", None)
        if tokenizer is not None and size is not None and len(tokenizer) > size:
            raise ValueError(
                f"The student knows {size} tokens, but its tokenizer has {len(tokenizer)}. Give the trainer the "
                "student's tokenizer, not the teacher's: processing_class=..., or `tokenizer: path` in a file."
            )

    def predicted(self, batch: Batch, rows: Tensor) -> Tensor:
        """Whether the predictions at some positions count, ``[B, R]``; those at position -1 do not."""
        return batch.row_mask.gather(1, rows.clamp(min=0)) & (rows >= 0)
