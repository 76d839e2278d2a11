"""Mean squared error between the student's probabilities and the labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Paper, Signal

from .examples import example_logits, labels_of


class LabelMSE(BatchLoss):
    """``mean_c (q_c - 1_{c=y})^2``, for classifiers; the part of self-distillation that follows the ground truth.

    With weight a, beside `probability_mse` with weight 1 - a, it is the loss of Borup and Andersen 2021, "Even your
    Teacher Needs Guidance", arXiv:2102.13088, in the official code for deep networks. Deviation: that code adds the
    norm of every weight matrix; here weight decay is the optimizer's.
    """

    paper = Paper("Borup and Andersen", 2021, title="Even your Teacher Needs Guidance", arxiv="2102.13088")
    items = "rows"
    needs_teacher = False
    needs_student_rows = True

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """The sum over the examples with a label.

        Raises:
            ValueError: there are no labels, or the student is no classifier of examples.
        """
        labels, present = labels_of(batch, "label_mse")
        q = example_logits(student, "label_mse").softmax(-1)
        values = (q - nn.functional.one_hot(labels, q.shape[-1])).square().mean(-1)
        return torch.where(present, values, 0).sum()
