"""What a metric is: sums over rows that add up over chunks, batches and processes, and figures made of these.

So no metric keeps logits, of a vocabulary or of a whole data set, and every process counts each row once. A row is a
token that is predicted, or an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Sums = Mapping[str, NDArray[Any]]


class Metric(ABC):
    """One metric; without state, options are its attributes.

    Attributes:
        needs_labels: whether it compares with the rows' targets; rows without one are left out, and where a data set
            has none, as in a prediction, so is the metric.
        needs_teacher: whether it compares with the (first) teacher.
    """

    needs_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    @abstractmethod
    def update(self, student: Tensor, teacher: Tensor | None, labels: Tensor | None) -> dict[str, Tensor]:
        """Sums over some rows, each always of the same shape.

        Args:
            student: logits ``[m, V]``, float32 or wider.
            teacher: the teacher's, of the columns that both have, where it is needed.
            labels: ``[m]``, where they are needed.
        """

    @abstractmethod
    def compute(self, sums: Sums, measured: Mapping[str, float]) -> dict[str, float]:
        """The figures, by the names that they get in the log.

        Args:
            sums: what `update` gave, added up over all rows of the evaluation.
            measured: what was measured before, by name: the losses, then metrics in the order that they were named in.
        """

    def measure(
        self, student: ArrayLike, teacher: ArrayLike | None = None, labels: ArrayLike | None = None
    ) -> dict[str, float]:
        """The figures of logits at hand: ``[n, V]`` of the student, and what else the metric needs.

        Raises:
            ValueError: something that it needs is not given.
        """
        given = {"labels": labels is not None, "teacher": teacher is not None}
        for name, needed in (("labels", self.needs_labels), ("teacher", self.needs_teacher)):
            if needed and not given[name]:
                raise ValueError(f"{type(self).__name__} compares with {name}, but none are given.")
        tensors = [None if values is None else torch.as_tensor(np.asarray(values)) for values in (teacher, labels)]
        sums = self.update(torch.as_tensor(np.asarray(student)), *tensors)
        return self.compute({name: value.numpy() for name, value in sums.items()}, {})


def count_of(student: Tensor) -> Tensor:
    """How many rows there are, as a sum."""
    return torch.as_tensor(float(len(student)), dtype=torch.float64, device=student.device)
