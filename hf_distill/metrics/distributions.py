"""Checking that what metrics are given are probabilities and not logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def check_distributions(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The rows ``[n, C]``, which must be distributions.

    Raises:
        ValueError: a row has a negative entry or does not sum to one (1e-3, for rows that were float16 once).
    """
    if (rows < 0).any() or not np.allclose(rows.sum(-1), 1, atol=1e-3):
        raise ValueError(
            f"Rows of shape {rows.shape} sum to {rows.sum(-1).min():.3g} to {rows.sum(-1).max():.3g} and start at "
            f"{rows.min():.3g}; expected probabilities: apply softmax to logits first."
        )
    return rows
