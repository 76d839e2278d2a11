"""FIRST: a few of the teacher's probabilities, re-calibrated before they are taught."""

from __future__ import annotations

from torch import Tensor

from hf_distill import Paper, SparseRows, as_float32, row_loss


def _on_sparse(
    student_logits: Tensor, teacher: SparseRows, *, num_classes: int = 5, calibration_temperature: float = 1.0
) -> Tensor:
    """`first` on a teacher of which some classes are kept."""
    _check(num_classes, calibration_temperature)
    num_kept = teacher.ids.shape[-1]
    if num_kept < min(num_classes, teacher.vocab_size):
        raise ValueError(
            f"first reads the teacher's {num_classes} most likely classes, but only {num_kept} are kept. Make a cache "
            "that keeps more, or set num_classes."
        )
    log_p, places = teacher.log_probs.topk(min(num_classes, teacher.vocab_size), dim=-1)
    ids = teacher.ids.gather(-1, places).clamp(max=teacher.vocab_size - 1)
    return _divergence(student_logits, log_p, ids, calibration_temperature)


@row_loss(
    paper=Paper("Shum et al.", 2024, name="FIRST", arxiv="2408.12168"),
    on_sparse=_on_sparse,
)
def first(
    student_logits: Tensor, teacher_logits: Tensor, *, num_classes: int = 5, calibration_temperature: float = 1.0
) -> Tensor:
    """KL between the re-calibrated probabilities of what the teacher finds most likely.

    With i over the teacher's `num_classes` most likely classes and c the temperature of "trustworthy maximisation"::

        P~(i) = exp(P(i) / c) / sum_j exp(P(j) / c)
        value = KL(P~_teacher || P~_student)

    This softmax over probabilities flattens at c = 1 ([.9, .05, .03, .015, .005] becomes [.38, .16, .16, .16, .15]) and
    nearly keeps the most likely class at c = 0.3 (.82); the paper chooses c by the calibration error on validation
    data, for which there is the metric ``calibration`` (the paper has 10 bins: ``n_bins=10``). Both models are
    normalised over the whole vocabulary first.

    Args:
        student_logits: ``[n, V]``.
        teacher_logits: ``[n, V]``; of a cache with at least `num_classes` kept, its rows are read as they are.
        num_classes: how many of the teacher's classes.
        calibration_temperature: c, of both models.

    Raises:
        ValueError: an option out of its range, or a cache that keeps fewer classes.

    Paper: Shum et al. (2024), FIRST, arXiv:2408.12168, section 3.3. Of the authors' code this is the default branch;
        their example's ``use_other_token`` gives probabilities to a function that expects logarithms, which is no KL.
    """
    _check(num_classes, calibration_temperature)
    teacher_logits = as_float32(teacher_logits.detach())
    likely, ids = teacher_logits.topk(min(num_classes, teacher_logits.shape[-1]), dim=-1)
    log_p = likely - teacher_logits.logsumexp(-1, keepdim=True)
    return _divergence(student_logits, log_p, ids, calibration_temperature)


def _divergence(student_logits: Tensor, log_p: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """KL of the re-calibrated, from the student's logits and the teacher's log-probabilities of `ids` ``[n, k]``."""
    student_logits = as_float32(student_logits)
    q = (student_logits.gather(-1, ids) - student_logits.logsumexp(-1, keepdim=True)).exp()
    log_target, log_student = ((x / temperature).log_softmax(-1) for x in (log_p.to(q.dtype).exp(), q))
    return (log_target.exp() * (log_target - log_student)).sum(-1)


def _check(num_classes: int, temperature: float) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; expected at least 2: one class alone is always certain.")
    if not temperature > 0:
        raise ValueError(f"calibration_temperature is {temperature}; expected a positive number.")
