"""Mean squared error between the probabilities of student and teacher."""

from __future__ import annotations

from torch import Tensor

from hf_distill import Paper, row_loss


@row_loss(paper=Paper("Borup and Andersen", 2021, title="Even your Teacher Needs Guidance", arxiv="2102.13088"))
def probability_mse(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """``mean_c (q_c - p_c)^2``, the part of self-distillation that follows the generation before.

    Both inputs are [n, V], a chunk of rows; returns float32 [n].

    Paper: Borup and Andersen 2021, "Even your Teacher Needs Guidance", arXiv:2102.13088, and its official code for deep
    networks.
    """
    gap = student_logits.float().softmax(-1) - teacher_logits.float().softmax(-1)
    return gap.square().mean(-1)
