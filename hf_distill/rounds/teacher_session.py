"""Who asks and who writes down, in a run in rounds: the first process alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..drivers.first_process import on_first_process
from ..plugins.manager import Plugins
from ..serving.budget import Budget
from ..serving.factory import make_text_teacher
from ..serving.ledger import Ledger
from .generators import ProposedRow, Row, TextSource


class TeacherSession:
    """Where the first process keeps the teacher and the ledger while a run is under way.

    Args:
        folder: of the ledger.
        spec: what `make_text_teacher` takes, or None.
        budget: what may be spent.
        plugins: where kinds of teachers are registered.
        teacher: who answers in place of what `spec` says.
    """

    def __init__(
        self,
        folder: Path,
        spec: Any,
        *,
        budget: Budget | None = None,
        plugins: Plugins | None = None,
        teacher: TextSource | None = None,
    ) -> None:
        self.ledger: Ledger | None = None
        self.teacher = teacher
        self._folder = folder
        self._spec = spec
        self._budget = budget
        self._plugins = plugins

    def __enter__(self) -> TeacherSession:
        on_first_process(self._open)
        return self

    def _open(self) -> None:
        self.ledger = Ledger(self._folder)
        if self.teacher is None and self._spec is not None:
            self.teacher = make_text_teacher(self._spec, plugins=self._plugins, ledger=self.ledger, budget=self._budget)

    def __exit__(self, *_: object) -> None:
        if self.ledger is not None:
            self.ledger.close()

    def record(self, proposed: ProposedRow, row: Row | None, reason: str) -> None:
        """Write what became of a row."""
        if self.ledger is not None and proposed.request_id:
            shown = row or (proposed.fields if isinstance(proposed.fields, Mapping) else {"item": proposed.fields})
            self.ledger.record_outcome(
                proposed.request_id, proposed.index, shown, accepted=row is not None, reason=reason
            )

    def spent(self, index: int) -> dict[str, Any]:
        """What a round took."""
        assert self.ledger is not None
        purpose = f"round {index}"
        summary = self.ledger.summary(purpose=purpose)
        asked, problems = set(), {}
        for entry in self.ledger.entries():
            if entry["entry"] == "request" and entry["purpose"] == purpose:
                asked.add(entry["request_id"])
            elif entry["entry"] == "parse" and entry["request_id"] in asked:
                problem = f"{entry['outcome']}: {entry['detail']}"
                problems[entry["request_id"]] = problem if not entry["num_rows"] else ""
        return {
            "num_requests": summary.num_attempts,
            "num_tokens": summary.prompt_tokens + summary.completion_tokens,
            "cost": summary.cost,
            "problems": [problem for problem in problems.values() if problem],
        }


class DryRunFinished(Exception):
    """Ends a dry run."""


class DryRunTeacher:
    """A teacher that keeps what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate(self, prompts: Sequence[str], *, seed: int, purpose: str) -> Any:
        """Raises DryRunFinished."""
        self.prompts += prompts
        raise DryRunFinished
