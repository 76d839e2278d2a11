"""SinKD: how far the student's predictions for a whole batch must be moved to become the teacher's.

Shape letters: n rows, g rows of a group, V vocabulary or classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill import Batch, BatchLoss, Paper, Rows, Signal

from .projected import sum_over_chunks


class SinKD(BatchLoss):
    """Sinkhorn distance between the sets of predictions of a batch, per row.

    The cost of turning row i of the student into row j of the teacher is ``W_ij = |q_i - p_j|_1``. Sinkhorn's
    iterations make a plan P from ``exp(-W / epsilon)``, normalising rows and columns to 1 in turn. The sum is that of
    ``P W``; divided by the number of rows, it is a mean cost between 0 and 2. Gradients flow through the plan.

    The value depends on which rows are together: those of one micro-batch of one process, cut into groups in their
    order. It changes with the micro-batch's size, with accumulation and with the number of processes, which no other
    loss here does. Because of the entropy in the plan it is not zero where the models agree.

    Cost: both heads are projected for the rows that count, a group at a time, and each group takes g^2 V operations
    there and back. Memory: about six times g x V floats, and a gradient of the size of the student's head.

    Args:
        epsilon: entropic regularisation; smaller is nearer to the exact transport and slower to converge.
        num_iterations: how often rows and columns are normalised.
        softmax_temperature: of both models.
        group_size: rows of a group; a classifier's batch is usually one group.

    Raises:
        ValueError: an option out of its range.

    Paper: Cui et al. (2024), Sinkhorn Distance Minimization for KD, arXiv:2402.17110, section 3.2. Deviations: computed
        in the logarithmic domain, and a mean over rows. The authors' code multiplies the sum by 0.001, so that its
        weight w there is 0.001 w n here, for n rows; it is always at temperature 2, whatever it is told; and for T0 its
        softmax runs over positions.
    """

    paper = Paper("Cui et al.", 2024, title="Sinkhorn Distance Minimization for KD", name="SinKD", arxiv="2402.17110")
    items = "rows"
    needs_student_rows = True
    needs_teacher_rows = True

    def __init__(
        self,
        *,
        epsilon: float = 0.1,
        num_iterations: int = 20,
        softmax_temperature: float = 2.0,
        group_size: int = 128,
    ) -> None:
        super().__init__()
        if not epsilon > 0 or not softmax_temperature > 0:
            raise ValueError(
                f"epsilon is {epsilon}, softmax_temperature {softmax_temperature}; expected positive numbers."
            )
        if num_iterations < 1 or group_size < 2:
            raise ValueError(f"num_iterations is {num_iterations}, group_size {group_size}; expected at least 1 and 2.")
        self.epsilon, self.num_iterations = epsilon, num_iterations
        self.softmax_temperature, self.group_size = softmax_temperature, group_size

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Sum of the costs of all rows."""
        assert isinstance(student.rows, Rows)
        assert teacher.rows is not None
        student_rows, teacher_rows = student.rows.select(batch.row_mask), teacher.rows.select(batch.row_mask)
        num_rows = len(student_rows.tensor)

        def group_cost(student_logits: Tensor, teacher_logits: Tensor, _rows: slice) -> Tensor:
            q, p = ((logits / self.softmax_temperature).softmax(-1) for logits in (student_logits, teacher_logits))
            return transport_cost(q, p, epsilon=self.epsilon, num_iterations=self.num_iterations)

        groups = [slice(start, min(start + self.group_size, num_rows)) for start in range(0, num_rows, self.group_size)]
        return sum_over_chunks(group_cost, student_rows, teacher_rows, groups)


def transport_cost(q: Tensor, p: Tensor, *, epsilon: float, num_iterations: int) -> Tensor:
    """Sum of ``P W`` for distributions ``[g, V]``, a scalar; zero for no rows."""
    if len(q) == 0:
        return q.sum()
    cost = torch.cdist(q, p, p=1)
    log_plan = -cost / epsilon
    for _ in range(num_iterations):
        log_plan = log_plan - log_plan.logsumexp(1, keepdim=True)
        log_plan = log_plan - log_plan.logsumexp(0, keepdim=True)
    return (log_plan.exp() * cost).sum()
