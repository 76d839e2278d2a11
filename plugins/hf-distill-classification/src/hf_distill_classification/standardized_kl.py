"""Logit standardisation: what the student learns of its teacher's logits is their shape, not their size."""

from __future__ import annotations

from torch import Tensor

from hf_distill import Paper, as_float32, forward_kl, row_loss


@row_loss(paper=Paper("Sun et al.", 2024, title="Logit Standardization in Knowledge Distillation", arxiv="2403.01427"))
def standardized_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """``KL(softmax(Z(z_teacher) / T) || softmax(Z(z_student) / T))`` with Z as in `standardize`.

    The student need not have the teacher's mean and variance, which a small one hardly can; the temperature then has
    the same effect on both models and on every row. It is the loss's usual one; the authors have 2, with a weight of 9
    beside 0.1 for the labels.

    Args:
        student_logits: ``[n, V]``, divided by any temperature, which cancels.
        teacher_logits: the same of the teacher.
        temperature: T.

    Returns:
        ``[n]`` in float32, which the trainer multiplies by T^2.

    Paper: Sun et al. (2024), Logit Standardization in Knowledge Distillation, arXiv:2403.01427, algorithm 1.
    """
    student, teacher = (standardize(logits) / temperature for logits in (student_logits, teacher_logits))
    return forward_kl(student, teacher)


def standardize(logits: Tensor) -> Tensor:
    """``Z(z) = (z - mean) / (deviation + 1e-7)`` over the classes of each row, ``[n, V]`` in float32.

    As in the authors' code, the deviation is that of a sample (it divides by V - 1).
    """
    logits = as_float32(logits)
    centred = logits - logits.mean(-1, keepdim=True)
    return centred / (logits.std(-1, keepdim=True) + 1e-7)
