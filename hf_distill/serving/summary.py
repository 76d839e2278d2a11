"""Sums over a ledger: cost, tokens, answers by status, rows by outcome and by class."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

UNANSWERED = "unanswered"
EXAMPLES_PER_CLASS = 3


@dataclass
class ClassSummary:
    """Rows of one class: how many were accepted and rejected, and the first few accepted ones."""

    accepted: int = 0
    rejected: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class LedgerSummary:
    """What a ledger, or one purpose in it, adds up to.

    Attributes:
        num_requests: different requests.
        num_attempts: how often something was asked, repetitions after failures included.
        prompt_tokens: tokens read, as far as they are known.
        completion_tokens: tokens written, as far as they are known.
        cost: the known costs together; None where no cost is known.
        num_unknown_cost: answers whose cost nobody said.
        answers: how many requests ended in each status; "unanswered" were asked and cut off.
        parses: how many answers were parsed, repaired, rejected ...
        rejected: how many rows were rejected for each reason.
        num_accepted: rows accepted.
        classes: rows by class.
        models: attempts by model.
    """

    num_requests: int = 0
    num_attempts: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    num_unknown_cost: int = 0
    answers: dict[str, int] = field(default_factory=dict)
    parses: dict[str, int] = field(default_factory=dict)
    num_accepted: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    classes: dict[str, ClassSummary] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows generated, accepted or not."""
        return self.num_accepted + sum(self.rejected.values())

    def as_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "num_rows": self.num_rows}


def summarize(entries: Iterable[Mapping[str, Any]], *, purpose: str | None = None) -> LedgerSummary:
    """Sums over `entries`, or those of the requests made for `purpose`; of two outcomes of a row the last counts."""
    result = LedgerSummary()
    models: dict[str, str] = {}
    attempts: Counter[str] = Counter()
    answers: dict[str, Mapping[str, Any]] = {}
    parses: dict[str, str] = {}
    outcomes: dict[tuple[str, int], Mapping[str, Any]] = {}
    for entry in entries:
        kind, name = entry["entry"], entry["request_id"]
        if kind == "request" and purpose in (None, entry["purpose"]):
            models[name] = entry["model"]
        if name not in models:
            continue
        if kind in ("request", "again"):
            attempts[models[name]] += 1
        elif kind == "answer":
            _add_usage(result, entry["usage"])
            answers[name] = entry
        elif kind == "parse":
            parses[name] = entry["outcome"]
        elif kind == "outcome":
            outcomes[name, entry["index"]] = entry
    result.num_requests = len(models)
    result.num_attempts = sum(attempts.values())
    result.models = dict(sorted(attempts.items()))
    statuses = [answers[name]["status"] if name in answers else UNANSWERED for name in models]
    result.answers = _by_count(Counter(statuses))
    result.parses = _by_count(Counter(parses.values()))
    _add_rows(result, outcomes.values())
    return result


def _add_usage(result: LedgerSummary, usage: Mapping[str, Any]) -> None:
    result.prompt_tokens += usage["prompt_tokens"] or 0
    result.completion_tokens += usage["completion_tokens"] or 0
    if usage["cost"] is None:
        result.num_unknown_cost += 1
    else:
        result.cost = (result.cost or 0.0) + usage["cost"]


def _add_rows(result: LedgerSummary, outcomes: Iterable[Mapping[str, Any]]) -> None:
    rejected: Counter[str] = Counter()
    classes: dict[str, ClassSummary] = {}
    for outcome in outcomes:
        of_class = classes.setdefault(outcome["label"], ClassSummary())
        if outcome["accepted"]:
            result.num_accepted += 1
            of_class.accepted += 1
            if len(of_class.examples) < EXAMPLES_PER_CLASS:
                of_class.examples.append(outcome["row"])
        else:
            rejected[outcome["reason"]] += 1
            of_class.rejected += 1
    result.rejected = _by_count(rejected)
    result.classes = dict(sorted(classes.items()))


def _by_count(counter: Counter[str]) -> dict[str, int]:
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))
