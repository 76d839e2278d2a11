"""Which texts the teacher is shown: some that the student gets right, some wrong, and some wrong with confidence."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hf_distill import Predictions

Rows = list[dict[str, Any]]


@dataclass
class Buckets:
    """Rows by how the student does on them; a text stands in one of them only."""

    correct: Rows = field(default_factory=list)
    incorrect: Rows = field(default_factory=list)
    hard_negatives: Rows = field(default_factory=list)


def draw_buckets(
    predictions: Predictions,
    rng: random.Random,
    *,
    num_correct: int,
    num_incorrect: int,
    num_hard_negatives: int,
    shown: Sequence[Mapping[str, Any]] = (),
) -> Buckets:
    """Draw the three samples of PGKD's step 2.

    Hard negatives are the errors of the highest confidence, most confident first. They come out of the same errors as
    `incorrect`, so those are drawn from what is left; of few errors there may be none left.

    Args:
        predictions: rows with their true ``label``, what was predicted, and how confidently.
        rng: draws the correct and the incorrect ones.
        num_correct: how many to draw at most.
        num_incorrect: likewise.
        num_hard_negatives: likewise.
        shown: rows that the prompt has anyway, which are not shown as correct once more.

    Returns:
        Rows of ``text`` and ``label``; errors have ``predicted`` too, and hard negatives ``confidence``.
    """
    seen = {row["text"] for row in shown}
    right: dict[str, dict[str, Any]] = {}
    wrong: dict[str, dict[str, Any]] = {}
    for row, label, confidence in zip(predictions.rows, predictions.labels, predictions.confidences, strict=True):
        known = {"text": row["text"], "label": row["label"]}
        if label != row["label"]:
            wrong.setdefault(row["text"], {**known, "predicted": label, "confidence": round(confidence, 3)})
        elif row["text"] not in seen:
            right.setdefault(row["text"], known)
    hard = sorted(wrong.values(), key=lambda row: -row["confidence"])[:num_hard_negatives]
    taken = {row["text"] for row in hard}
    others = [{key: row[key] for key in ("text", "label", "predicted")} for row in wrong.values()]
    return Buckets(
        correct=_draw([row for text, row in right.items() if text not in wrong], num_correct, rng),
        incorrect=_draw([row for row in others if row["text"] not in taken], num_incorrect, rng),
        hard_negatives=hard,
    )


def _draw(rows: Rows, count: int, rng: random.Random) -> Rows:
    return rng.sample(rows, min(count, len(rows)))
