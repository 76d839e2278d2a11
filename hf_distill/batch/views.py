"""What a teacher is shown instead of the student's batch: the same text in tokens of its own, for instance."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from .signals import Batch


class TeacherView(ABC):
    """How a teacher sees a batch, where that is not how the student does; see `TeacherViewMixin.make_teacher_view`.

    Work on the CPU belongs into `collate`, which runs where the data is loaded, in its worker processes, if it has any:
    so a view can be pickled. Losses that share a teacher and give equal views share the teacher's answer, too.

    Attributes:
        columns: what `collate` adds; losses find it in `Batch.extras`.
    """

    columns: tuple[str, ...] = ()

    @abstractmethod
    def collate(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The `columns`, from a collated batch.

        Called again where a generator has rewritten a batch, with tensors that may be on another device then.
        """

    @abstractmethod
    def batch(self, batch: Batch) -> Batch:
        """What the teacher is asked about, on the student's device and without waiting for it."""


class CollateViews:
    """Wraps a collator: adds to its batches what views need.

    Args:
        collator: makes a batch.
        views: what is added, in this order.
    """

    def __init__(self, collator: Any, views: Sequence[TeacherView]) -> None:
        self.collator, self.views = collator, tuple(views)

    def __call__(self, features: list[Any]) -> Any:
        """The collator's batch of `features`, with the views' columns."""
        return add_views(self.collator(features), self.views)


def add_views(inputs: Any, views: Sequence[TeacherView]) -> Any:
    """A collated batch with the columns of some views, which replace what was there."""
    for view in views:
        inputs.update(view.collate(inputs))
    return inputs
