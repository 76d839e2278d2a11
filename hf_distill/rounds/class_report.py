"""How good a classifier is, class by class: what a round of training data is asked for by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


@dataclass(frozen=True)
class ClassScores:
    """Precision, recall and F1 of a class, or a mean of several, and how many examples there are of it."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class ClassReport:
    """A validation report with every class of the taxonomy, also those without an example.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of right predictions.
        classes: the scores by class, in the order of the taxonomy.
        macro, weighted: their means over classes, equally and by support.
    """

    loss: float
    accuracy: float
    classes: Mapping[str, ClassScores]
    macro: ClassScores
    weighted: ClassScores

    def worst(self, count: int) -> list[str]:
        """The `count` classes with examples that have the lowest F1; of equal ones those with more examples first."""
        seen = [name for name, scores in self.classes.items() if scores.support]
        return sorted(seen, key=lambda name: (self.classes[name].f1, -self.classes[name].support))[:count]

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ClassReport:
        """What `to_json` wrote."""
        return cls(
            loss=value["loss"],
            accuracy=value["accuracy"],
            classes={name: ClassScores(**scores) for name, scores in value["classes"].items()},
            macro=ClassScores(**value["macro"]),
            weighted=ClassScores(**value["weighted"]),
        )


def class_report(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str], *, loss: float) -> ClassReport:
    """The report on `predicted` against `true`; a score whose denominator is zero is zero.

    Args:
        true: the classes, a name per example.
        predicted: the predicted classes, a name per example.
        labels: the taxonomy.
        loss: the mean cross-entropy, which names alone do not tell.

    Raises:
        ValueError: there are no examples.
    """
    if not true:
        raise ValueError("There are no examples to report on; give validation rows.")
    ids = {name: index for index, name in enumerate(labels)}
    true_ids, predicted_ids = (np.array([ids[name] for name in names]) for names in (true, predicted))
    support = np.bincount(true_ids, minlength=len(ids))
    given = np.bincount(predicted_ids, minlength=len(ids))
    hits = np.bincount(true_ids[true_ids == predicted_ids], minlength=len(ids))
    scores = np.stack([_ratio(hits, given), _ratio(hits, support), _ratio(2 * hits, given + support)], axis=1)
    total = int(support.sum())
    return ClassReport(
        loss=loss,
        accuracy=float(hits.sum() / total),
        classes={name: _scores(scores[index], support[index]) for name, index in ids.items()},
        macro=_scores(scores.mean(axis=0), total),
        weighted=_scores(support @ scores / total, total),
    )


def _scores(precision_recall_f1: Floats, support: int) -> ClassScores:
    precision, recall, f1 = precision_recall_f1.tolist()
    return ClassScores(precision, recall, f1, int(support))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    # F1 = 2 P R / (P + R) = 2 hits / (given + support).
    ratio: Floats = numerator / np.maximum(denominator, 1)
    return ratio
