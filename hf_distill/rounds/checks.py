"""What a generated row must pass before it is trained on; each reason to reject one has a name that is counted.

>>> checker = RowChecker(["card_lost", "refund"], train=["where is my refund"], forbidden=["I lost my card"])
>>> checker.check({"text": "Where is my refund?", "label": "refund"}).reason
'near_duplicate'
>>> checker.check({"text": "they stole my wallet", "label": "Card lost"})
Verdict(row={'text': 'they stole my wallet', 'label': 'card_lost'}, reason='')
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..plugins.registry import did_you_mean
from ..serving.extras import import_extra

REASONS = (
    "schema",  # no object with the fields text and label
    "label",  # not in the taxonomy
    "length",  # too short or too long
    "duplicate",  # the text is in the training set, or was accepted before
    "near_duplicate",  # nearly so
    "leak",  # the text is in the validation or the test set
    "near_leak",  # nearly so
    "balance",  # its class has enough rows in this round
    "surplus",  # more rows than were asked for
)
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True, kw_only=True)
class RowChecks:
    """The limits of the checks; all are on, and None turns one off.

    Attributes:
        min_characters, max_characters: of a text, without the space around it.
        near_duplicate: how similar to a text of the training set a row may be at most, from 0 to 100: rapidfuzz's
            ratio of the normalised texts with their words sorted.
        near_leak: the same against validation and test texts.
        max_class_share: the share that one class may have of the rows asked for in a round.
    """

    min_characters: int | None = 2
    max_characters: int | None = 4000
    near_duplicate: float | None = 92.0
    near_leak: float | None = 92.0
    max_class_share: float | None = 0.5

    @classmethod
    def parse(cls, spec: Mapping[str, Any] | RowChecks | None) -> RowChecks:
        """What a mapping, of a YAML file for instance, says.

        Raises:
            ValueError: an unknown key, or a limit out of its range.
        """
        if isinstance(spec, RowChecks):
            return spec
        known = [field.name for field in fields(cls)]
        for key in spec or {}:
            if key not in known:
                raise ValueError(
                    f"checks has no option {key!r}{did_you_mean(key, known)}; there are {', '.join(known)}."
                )
        checks = cls(**(spec or {}))
        for name in ("near_duplicate", "near_leak"):
            if (value := getattr(checks, name)) is not None and not 0 < value <= 100:
                raise ValueError(f"checks.{name} is {value}; expected a similarity above 0 and up to 100, or null.")
        if checks.max_class_share is not None and not 0 < checks.max_class_share <= 1:
            raise ValueError(f"checks.max_class_share is {checks.max_class_share}; expected a share, or null.")
        return checks


@dataclass(frozen=True)
class Verdict:
    """What became of a row: the row as it will be trained on, or a reason (one of `REASONS`) to reject it."""

    row: dict[str, Any] | None
    reason: str = ""


class RowChecker:
    """Checks the rows of one round after another against the training set and each other.

    Args:
        labels: the taxonomy, names in the order of their ids.
        train: texts of the training set; accepted rows join them.
        forbidden: texts that must not become training data: those of the validation and test sets.
        checks: the limits.
    """

    def __init__(
        self,
        labels: Sequence[str],
        *,
        train: Iterable[str],
        forbidden: Iterable[str] = (),
        checks: RowChecks | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.checks = checks or RowChecks()
        self._names = _names(self.labels)
        self._train = _Texts(train)
        self._forbidden = _Texts(forbidden)

    def check_round(self, rows: Sequence[Any], *, num_asked: int) -> list[Verdict]:
        """The verdicts on the rows of one round, in order; `num_asked` is how many the teacher was asked for."""
        share = self.checks.max_class_share
        limit = num_asked if share is None else max(math.ceil(share * num_asked), 1)
        num_accepted: Counter[str] = Counter()
        verdicts = []
        for position, row in enumerate(rows):
            verdict = Verdict(None, "surplus") if position >= num_asked else self.check(row, num_accepted, limit)
            if verdict.row is not None:
                num_accepted[verdict.row["label"]] += 1
                self._train.add(verdict.row["text"])
            verdicts.append(verdict)
        return verdicts

    def check(self, row: Any, num_accepted: Mapping[str, int] | None = None, limit: int | None = None) -> Verdict:
        """The verdict on one row, given how many of each class were accepted and how many may be."""
        text, label = (row.get("text"), row.get("label")) if isinstance(row, Mapping) else (None, None)
        if not isinstance(text, str) or not isinstance(label, (str, int)) or isinstance(label, bool):
            return Verdict(None, "schema")
        name = self.label_name(label)
        if name is None:
            return Verdict(None, "label")
        text = text.strip()
        shortest, longest = self.checks.min_characters or 1, self.checks.max_characters or math.inf
        if not shortest <= len(text) <= longest or not normalised(text):
            return Verdict(None, "length")
        for reason, texts, similarity in (
            ("leak", self._forbidden, self.checks.near_leak),
            ("duplicate", self._train, self.checks.near_duplicate),
        ):
            if text in texts:
                return Verdict(None, reason)
            if similarity is not None and texts.has_near(text, similarity):
                return Verdict(None, f"near_{reason}")
        if limit is not None and (num_accepted or {}).get(name, 0) >= limit:
            return Verdict(None, "balance")
        return Verdict({**row, "text": text, "label": name})

    def label_name(self, label: str | int) -> str | None:
        """The taxonomy's name for a label given by name (whatever its case and separators) or by id."""
        if isinstance(label, str):
            if label in self.labels:
                return label
            if (name := self._names.get(normalised(label))) is not None:
                return name
            if not re.fullmatch(r"\s*\d+\s*", label, re.ASCII):
                return None
        index = int(label)
        return self.labels[index] if 0 <= index < len(self.labels) else None


def normalised(text: str) -> str:
    """Without case, punctuation and repeated space."""
    return _SEPARATORS.sub(" ", text.casefold()).strip()


def _names(labels: Sequence[str]) -> dict[str, str]:
    """Labels by their normalised names, where these tell them apart."""
    counts = Counter(map(normalised, labels))
    return {normalised(label): label for label in labels if counts[normalised(label)] == 1}


class _Texts:
    """Texts that are asked whether they hold one, or one that is nearly the same."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._sorted: list[str] = []
        self._fuzz = import_extra("rapidfuzz.fuzz", "rounds")
        self._process = import_extra("rapidfuzz.process", "rounds")
        for text in texts:
            self.add(text)

    def __contains__(self, text: str) -> bool:
        return text.strip() in self._exact

    def add(self, text: str) -> None:
        self._exact.add(text.strip())
        self._sorted.append(_sorted_words(text))

    def has_near(self, text: str, similarity: float) -> bool:
        # With the words sorted once here, this is token_sort_ratio without sorting every text at every comparison.
        best = self._process.extractOne(
            _sorted_words(text), self._sorted, scorer=self._fuzz.ratio, score_cutoff=similarity
        )
        return best is not None


def _sorted_words(text: str) -> str:
    return " ".join(sorted(normalised(text).split()))
