"""How often each class was taken for each other: all that metrics of classes need, in sums."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .base import Metric, Sums

MOST_CLASSES = 1000


class ConfusionMetric(Metric):
    """A metric of predicted and true classes."""

    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """See `Metric.update`.

        Raises:
            ValueError: there are more columns than classes can be told apart.
        """
        assert labels is not None
        classes = student.shape[-1]
        if classes > MOST_CLASSES:
            raise ValueError(
                f"{type(self).__name__} counts pairs of classes, {MOST_CLASSES} at most; there are {classes} columns. "
                "Use accuracy."
            )
        pairs = labels.long() * classes + student.argmax(-1)
        return {"confusion": torch.bincount(pairs, minlength=classes**2).double().reshape(classes, classes)}


def classes_of(sums: Sums) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """True class, predicted class and number of rows of each pair that was seen."""
    confusion = sums["confusion"]
    truth, found = np.nonzero(confusion)
    return truth, found, confusion[truth, found]
