"""The recursion of DDK's domain factors: arrays of float64 in, arrays of float64 out.

N is the number of domains; a *ratio* is the student's perplexity on a domain over the teacher's; r are the factors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Factors = NDArray[np.float64]


def perplexity_ratios(student: Factors, teacher: Factors, *, max_ratio: float | None = None) -> Factors:
    """``exp(student) / exp(teacher)`` of two mean cross-entropies in nats, ``[N]``.

    Args:
        student: mean cross-entropies of the student, ``[N]``.
        teacher: those of the teacher, ``[N]``.
        max_ratio: larger ratios are set to it. The factors grow with ``exp(ratio)``, so ratios that are all large
            make the mixture one-hot, whatever their proportions.

    Raises:
        ValueError: a cross-entropy is not finite.
    """
    if not (np.isfinite(student).all() and np.isfinite(teacher).all()):
        raise ValueError(
            f"Cross-entropies are not finite: student {student.tolist()}, teacher {teacher.tolist()}. "
            "A model that has diverged tells nothing about domains; lower the learning rate."
        )
    # The difference of logarithms cannot overflow where each perplexity would.
    ratios: Factors = np.exp(np.minimum(student - teacher, np.inf if max_ratio is None else np.log(max_ratio)))
    return ratios


def log_factors_initial(ratios: Factors) -> Factors:
    """Eq. 1: ``r[i] = exp(ratio[i]) / sum_j exp(ratio[j])``; without smoothing, it holds at every interval."""
    return _log_softmax(ratios)


def log_factors_update(log_factors: Factors, ratios: Factors, *, alpha: float) -> Factors:
    """Eq. 2: ``psi[i] = r[i] exp(ratio[i])``, then ``r[i] = alpha psi[i] / sum_j psi[j] + (1 - alpha) / N``.

    The factors sum to one and stay between ``(1 - alpha) / N`` and ``alpha + (1 - alpha) / N``. They are kept as
    logarithms: a student that has learnt nothing yet has ratios whose exponentials overflow, and factors that vanish.
    """
    with np.errstate(divide="ignore"):  # at both ends of alpha one of the two parts is zero
        followed, shared = np.log(alpha), np.log((1 - alpha) / len(ratios))
    updated: Factors = np.logaddexp(followed + _log_softmax(log_factors + ratios), shared)
    return updated


def _log_softmax(values: Factors) -> Factors:
    shifted = values - values.max()
    logarithms: Factors = shifted - np.log(np.exp(shifted).sum())
    return logarithms
