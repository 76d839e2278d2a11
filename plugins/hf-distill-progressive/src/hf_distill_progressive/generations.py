"""Generations of self-distillation in closed form: kernel ridge regression, its limit, and the best weight.

Paper: Borup and Andersen 2021, "Even your Teacher Needs Guidance: Ground-Truth Targets Dampen Regularization Imposed by
Self-Distillation", arXiv:2102.13088. a is the weight of the labels, 1 - a that of the generation before.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def ridge_generations(
    kernel: Array, labels: Array, *, regularization: float, alpha: float, steps: int, new: Array | None = None
) -> list[Array]:
    """Predictions of each generation; the first one learns from the labels alone.

    ``f_t = k(x, X) (K + l I)^-1 (a y + (1 - a) f_{t-1}(X))``

    Args:
        kernel: K, ``[n, n]``, between the training inputs.
        labels: y, ``[n]``.
        regularization: l, above 0.
        alpha: a, from 0 to 1.
        steps: how many generations.
        new: k, ``[m, n]``, between other inputs and the training inputs; by default `kernel`.

    Returns:
        ``[m]`` each.

    Raises:
        ValueError: a or l out of range.
    """
    _check(alpha, regularization)
    inverse = np.linalg.inv(kernel + regularization * np.eye(len(kernel)))
    at = kernel if new is None else new
    found, before = [], labels
    for _ in range(steps):
        coefficients = inverse @ (alpha * labels + (1 - alpha) * before)
        found.append(at @ coefficients)
        before = kernel @ coefficients
    return found


def ridge_limit(
    kernel: Array, labels: Array, *, regularization: float, alpha: float, new: Array | None = None
) -> Array:
    """Predictions after infinitely many generations, ``[m]``: one ridge regression with l / a; zero for a = 0.

    Takes what `ridge_generations` takes.
    """
    _check(alpha, regularization)
    at = kernel if new is None else new
    limit: Array = alpha * at @ np.linalg.solve(alpha * kernel + regularization * np.eye(len(kernel)), labels)
    return limit


def best_alpha(targets: Array, of_labels: Array, of_teacher: Array, *, clip: bool = True) -> float:
    """The weight of the labels at which the mixed predictions are nearest to held-out targets, in squares.

    ``a = <y - g, f - g> / |f - g|^2``; for linear students exact, for deep ones an estimate from two students instead
    of a search.

    Args:
        targets: y, of any shape: one-hot rows for classes.
        of_labels: f, predictions of a student trained with a = 1.
        of_teacher: g, those of one trained with a = 0.
        clip: to [0, 1], where the formula may leave it.

    Raises:
        ValueError: the two students predict the same, so that every weight is as good.
    """
    gap = of_labels - of_teacher
    if not (norm := float((gap**2).sum())):
        raise ValueError("Both students predict the same; no weight is better than another.")
    alpha = float(((targets - of_teacher) * gap).sum()) / norm
    return min(max(alpha, 0.0), 1.0) if clip else alpha


def _check(alpha: float, regularization: float) -> None:
    if not 0 <= alpha <= 1 or regularization <= 0:
        raise ValueError(f"alpha is {alpha}, expected 0 to 1; regularization is {regularization}, expected above 0.")
