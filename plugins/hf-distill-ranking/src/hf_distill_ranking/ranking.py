"""What losses on rankings share: nested batches, the student's scores, and where the teacher's come from.

Shape letters: B queries, K documents of the longest list, R documents of all lists together, H width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill import IGNORE_INDEX, Batch, BatchLoss, NestedBatchMixin, Rows, Signal, as_float32

from .scoring import POOLINGS, in_lists, pool

QUERY, DOCUMENTS, PAIRS = "query", "documents", "pairs"


class RankingLoss(NestedBatchMixin, BatchLoss):
    """Compares the scores that student and teacher give the documents of a query.

    The student is a bare encoder (`AutoModel`), run once on the queries and once on the documents of a batch as
    `RankingCollator` makes it; a document's score is the inner product of both vectors. A subclass defines `values`
    and `weights`.

    Args:
        pooling: how a text's positions become one vector: "mean", "first" (the class token) or "last".
        normalize: whether vectors have length one, so that scores are cosines.
        scale: scores are multiplied by it; cosines need one that is as large as the teacher's scores are.
        column: the data column that holds the teacher's scores; without it the teacher is asked, a cross-encoder or a
            cache of one, about each query joined with each of its documents.

    Raises:
        ValueError: an option out of its range.
    """

    items = "tokens"  # of texts; what the sum runs over, `weights` says
    student_parts: tuple[str, ...] = (QUERY, DOCUMENTS)
    teacher_parts: tuple[str, ...] = (PAIRS,)
    needs_teacher_rows = True

    def __init__(
        self, *, pooling: str = "mean", normalize: bool = False, scale: float = 1.0, column: str | None = None
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"pooling is {pooling!r}; expected one of {', '.join(POOLINGS)}.")
        if scale <= 0:
            raise ValueError(f"scale is {scale}; expected a positive number.")
        self.pooling, self.normalize, self.scale, self.column = pooling, normalize, scale, column
        if column is not None:
            self.needs_teacher, self.teacher_parts = False, ()

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Check that the student is an encoder, and that the teacher gives one score.

        Raises:
            ValueError: it is not, or it does not.
        """
        if isinstance(student, PreTrainedModel) and student.base_model is not student:
            raise ValueError(
                f"The student is a {type(student).__name__}, whose head a bi-encoder has no use for. Load it with "
                "AutoModel.from_pretrained(...), and save it once as that where a configuration names its folder."
            )
        num_columns = getattr(getattr(teacher, "config", None), "num_labels", None)
        if self.needs_teacher and teacher is not None and num_columns != 1:
            raise ValueError(
                f"The teacher is a {type(teacher).__name__} of {num_columns} classes; expected a cross-encoder with "
                "one score a pair: AutoModelForSequenceClassification with num_labels=1."
            )

    def values(self, student: Tensor, teacher: Tensor | None, batch: Batch) -> Tensor:
        """The value of each item, of any shape, in float32.

        Args:
            student: its scores, ``[B, K]``; those of places without a document mean nothing.
            teacher: the same of the teacher, without gradient; None where the loss asks none.
            batch: what they are of.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define values(student, teacher, batch).")

    def weights(self, batch: Batch) -> Tensor:
        """Which items count, boolean, of the shape of `values`; from the batch alone."""
        raise NotImplementedError(f"{type(self).__name__} does not define weights(batch).")

    def count(self, batch: Batch) -> Tensor:
        """How many items count."""
        return self.weights(batch).sum()

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """The sum over the items that count."""
        with torch.autocast(batch.row_mask.device.type, enabled=False):
            values = self.values(self.scores(student, batch), self.teacher_scores(teacher, batch), batch)
            return torch.where(self.weights(batch), values, 0).sum()

    def predictions(self, student: Signal, batch: Batch) -> Tensor:
        """The student's scores, ``[B, K]``, as `ranking_metrics` reads them."""
        with torch.autocast(batch.row_mask.device.type, enabled=False):
            return self.scores(student, batch).masked_fill(~documents_of(batch), IGNORE_INDEX)

    def vectors(self, student: Signal, batch: Batch) -> tuple[Tensor, Tensor]:
        """The queries' vectors, ``[B, H]``, and the documents', ``[B, K, H]``."""
        queries, documents = (self._pooled(student.parts[name], batch.parts[name]) for name in self.student_parts)
        return queries, in_lists(documents, documents_of(batch))

    def scores(self, student: Signal, batch: Batch) -> Tensor:
        """``scale * <query, document>``, ``[B, K]``."""
        queries, documents = self.vectors(student, batch)
        products: Tensor = torch.linalg.vecdot(queries[:, None], documents)
        return self.scale * products

    def teacher_scores(self, teacher: Signal, batch: Batch) -> Tensor | None:
        """The teacher's, ``[B, K]``, from the data or from its one logit a pair."""
        if self.column is not None:
            if (scores := batch.inputs.get(self.column)) is None:
                raise ValueError(
                    f"The loss reads the teacher's scores from the column {self.column!r}, but the batch has "
                    f"{', '.join(batch.inputs)}. Name it in RankingCollator(score_column=...), too."
                )
            return as_float32(scores.detach())
        if not self.needs_teacher:
            return None
        rows = teacher.parts[PAIRS].rows
        assert isinstance(rows, Rows)
        return in_lists(as_float32(rows.tensor.detach())[:, 0], documents_of(batch))

    def _pooled(self, signal: Signal, part: Batch) -> Tensor:
        vectors = pool(signal.outputs["last_hidden_state"], part.token_mask, self.pooling)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors


def documents_of(batch: Batch) -> Tensor:
    """Which places of the queries' lists hold a document, boolean ``[B, K]``."""
    mask: Tensor = batch.inputs["document_mask"]
    return mask


def relevance_of(batch: Batch) -> Tensor:
    """How relevant each document is, ``[B, K]``, `IGNORE_INDEX` where there is none.

    Raises:
        ValueError: the data does not say.
    """
    if batch.labels is None:
        raise ValueError(
            "The loss must know which documents are relevant: give the data the columns positive and negative(s), or a "
            "column labels beside documents, a number for each."
        )
    return batch.labels
