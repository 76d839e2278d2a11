"""How the predictions of neighbouring tokens of a phrase go together.

Shape letters: B examples, S positions, n rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_distill import Batch, BatchLoss, Paper, Rows, Signal

from .projected import sum_over_chunks
from .spans import NO_SPAN


class SpanRelation(BatchLoss):
    """Squared distance between the models' relations of neighbouring tokens: ``|q_i q_(i+1) - p_i p_(i+1)|^2``.

    The product is taken word by word of the vocabulary, for the predictions of two tokens that follow each other in one
    span; the square is summed over the vocabulary. The column `span_ids` of the data has a number for each token, equal
    for the tokens of a span and -1 outside of any (`hf_distill_lm.spans` makes it). The mean is over pairs.

    Cost: both heads are projected for the tokens of spans, `chunk_size` at a time, beside what other losses project.

    Args:
        column: which column has the spans.
        chunk_size: rows whose logits there are at a time.

    Raises:
        ValueError: chunk_size is below 2.

    Paper: Liu et al. (2024), Multi-Granularity Semantic Revision, arXiv:2407.10068, span level, with weight 1. After
        the paper's description, which takes phrases from an off-the-shelf chunker.
    """

    paper = Paper("Liu et al.", 2024, title="Multi-Granularity Semantic Revision", arxiv="2407.10068")
    items = "rows"  # pairs of them
    needs_student_rows = True
    needs_teacher_rows = True

    def __init__(self, *, column: str = "span_ids", chunk_size: int = 128) -> None:
        super().__init__()
        if chunk_size < 2:
            raise ValueError(f"chunk_size is {chunk_size}; expected at least 2, a pair.")
        self.column, self.chunk_size = column, chunk_size
        self.columns = (column,)
        self.shifted = True

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Note whether the prediction of a token stands at the position before it: in all but encoder-decoders."""
        self.shifted = not getattr(getattr(student, "config", None), "is_encoder_decoder", False)

    def count(self, batch: Batch) -> Tensor:
        """Pairs of neighbouring tokens in one span that both count."""
        return self._pairs(batch).sum()

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Sum over the pairs."""
        assert isinstance(student.rows, Rows)
        assert teacher.rows is not None
        begins = self._pairs(batch)
        used = begins | torch.nn.functional.pad(begins, (1, 0))[..., :-1]
        student_rows, teacher_rows = student.rows.select(used), teacher.rows.select(used)
        begins = begins[used]  # [n]: whether row i makes a pair with row i + 1

        def chunk_distance(student_logits: Tensor, teacher_logits: Tensor, rows: slice) -> Tensor:
            q, p = student_logits.softmax(-1), teacher_logits.softmax(-1)
            gap = q[:-1] * q[1:] - p[:-1] * p[1:]
            return (gap.square().sum(-1) * begins[rows][:-1]).sum() + q[:0].sum()

        num_rows = len(begins)
        # One row is in two chunks, so that no pair falls between them.
        starts = range(0, max(num_rows - 1, 0), self.chunk_size - 1)
        chunks = [slice(start, min(start + self.chunk_size, num_rows)) for start in starts]
        return sum_over_chunks(chunk_distance, student_rows, teacher_rows, chunks)

    def _pairs(self, batch: Batch) -> Tensor:
        """True at a position whose prediction and the next one are of one span, ``[B, S]``."""
        spans = spans_by_position(batch.extras.get(self.column), batch.token_mask, self.column)
        if self.shifted:
            spans = torch.nn.functional.pad(spans, (0, 1), value=NO_SPAN)[..., 1:]
        follows = torch.nn.functional.pad(spans, (0, 1), value=NO_SPAN)[..., 1:]
        counts = torch.nn.functional.pad(batch.row_mask, (0, 1))[..., 1:] & batch.row_mask
        return (spans == follows) & (spans != NO_SPAN) & counts


def spans_by_position(column: Any, token_mask: Tensor, name: str) -> Tensor:
    """The spans' numbers, ``[B, S]``, from a column that was not padded.

    Args:
        column: a tensor ``[B, S]``, or a list of numbers for each example, one a token.
        token_mask: where the tokens are, ``[B, S]``.
        name: of the column, for errors.

    Raises:
        ValueError: there is no such column, or an example has not one number a token.
    """
    if isinstance(column, Tensor) and column.shape == token_mask.shape:
        return column.to(token_mask.device)
    if isinstance(column, Tensor):
        column = column.tolist()
    if not isinstance(column, Sequence):
        raise ValueError(
            f"The data has no column {name!r}, which says which tokens belong together. Make it with "
            "hf_distill_lm.spans.tokenize_with_spans."
        )
    numbers = torch.tensor([number for example in column for number in example])
    spans = torch.full(token_mask.shape, NO_SPAN, device=token_mask.device)
    return spans.masked_scatter_(token_mask, numbers.to(token_mask.device))
