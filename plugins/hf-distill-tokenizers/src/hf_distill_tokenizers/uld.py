"""Universal logit distillation: sorted probabilities are compared, whatever words they belong to.

Shape letters: B examples, P pairs, m rows, V and W columns of student and teacher.
"""

from __future__ import annotations

from torch import Tensor

from hf_distill import Batch, Paper, Rows, Signal, weighted_row_sum

from .bridging import BridgingLoss
from .chunks import rows_at


class ULD(BridgingLoss):
    """L1 distance between the sorted next-token distributions of student and teacher.

    Both distributions are sorted and the shorter one is filled up with zeros; where the vocabularies are as large, this
    is the Wasserstein distance for a cost of one between any two words. The k-th prediction of the student's answer is
    compared with the k-th of the teacher's, as far as the shorter answer goes: the further into a text, the less are
    they about the same place.

    Args:
        temperature: of both distributions; values are not multiplied by its square.
        words: as `alm`; of no effect but that both can share the teacher's answer.
        max_length: tokens that the teacher reads of a sequence; by default as many as its tokenizer allows.
        messages: the column with the conversations that the rows hold, as `apply_chat_template` takes them. The teacher
            then reads them in its own template, and what was said is compared, not what stands around it.

    Raises:
        ValueError: an option out of its range.

    Paper: Boizard et al. (2024), Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs,
        arXiv:2402.12030, equation 5, with the authors' code for the pairing of positions. Deviations: the mean is over
        all pairs of the step, theirs over each example's and then over examples; answers begin and end where tokens of
        both do.
    """

    paper = Paper(
        "Boizard et al.",
        2024,
        title="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
        name="ULD",
        arxiv="2402.12030",
    )

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        words: bool = False,
        max_length: int | None = None,
        messages: str | None = None,
    ) -> None:
        super().__init__(words=words, max_length=max_length, messages=messages)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        self.temperature = temperature

    def count(self, batch: Batch) -> Tensor:
        """How many pairs there are."""
        return self.predicted(batch, self.view.column(batch, "student_pairs")).sum()

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Sum over the pairs."""
        assert isinstance(student.rows, Rows)
        assert teacher.rows is not None
        student_pairs, teacher_pairs = (self.view.column(batch, name) for name in ("student_pairs", "teacher_pairs"))

        def distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
            return sorted_distance(student_logits / self.temperature, teacher_logits / self.temperature)

        weights = self.predicted(batch, student_pairs).flatten().float()
        return weighted_row_sum(
            distance, rows_at(student.rows, student_pairs), rows_at(teacher.rows, teacher_pairs), weights=weights
        )


def sorted_distance(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """L1 distance of the sorted softmax of logits ``[m, V]`` and ``[m, W]``, ``[m]``."""
    q, p = (logits.softmax(-1).sort(-1, descending=True).values for logits in (student_logits, teacher_logits))
    shared = min(q.shape[-1], p.shape[-1])
    rest = q[:, shared:].sum(-1) + p[:, shared:].sum(-1)
    return (q[:, :shared] - p[:, :shared]).abs().sum(-1) + rest
