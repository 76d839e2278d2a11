"""The ledger itself: requests, answers and outcomes, each on disk before anybody acts on it.

Lines of the file, by their "entry": "request" (before it is first asked), "again" (before each later attempt),
"answer", "parse" (what was found in an answer) and "outcome" (what became of one row).
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from .answers import Answer
from .lines import LineWriter, read_lines
from .summary import LedgerSummary, summarize

LEDGER_NAME = "ledger.jsonl"
_START = b'{"entry": "request", '
_KINDS = ("request", "again", "answer", "parse", "outcome")


def read_entries(path: str | Path) -> Iterator[dict[str, Any]]:
    """The entries of the ledger at `path`, a file or the folder of one, without locking it.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    path = _file_of(Path(path))
    if not path.is_file():
        raise ValueError(f"there is no ledger at {path}.")
    with path.open("rb") as file:
        start = file.read(len(_START))
    if not _START.startswith(start):
        raise ValueError(f"{path} is no ledger: it does not start like one.")
    for entry in read_lines(path):
        if entry.get("entry") not in _KINDS:
            raise ValueError(f"{path} is no ledger: it holds an entry of kind {entry.get('entry')!r}.")
        yield entry


class Ledger:
    """The record of one run's requests; a run that was killed goes on from it.

    Safe to use from several threads of one process; one process writes at a time.

    Args:
        path: the file, or a folder, where it is called ``ledger.jsonl``; made where absent.

    Raises:
        ValueError: another run is writing to it, or it is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = _file_of(Path(path))
        self._guard = threading.Lock()
        self._lines = LineWriter(self.path)
        self._answers: dict[str, Answer] = {}
        self._asked: set[str] = set()
        self._known: dict[tuple[Any, ...], str] = {}
        try:
            for entry in read_entries(self.path):
                self._remember(entry)
        except ValueError:
            self._lines.close()
            raise

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let another run write; reading goes on."""
        self._lines.close()

    @staticmethod
    def request_id(
        model: str, messages: str | Sequence[Mapping[str, Any]], seed: int, settings: Mapping[str, Any]
    ) -> str:
        """The name of a request: the same for the same model, messages, seed and settings, in any process."""
        content = {"model": model, "messages": messages, "seed": seed, "settings": settings}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]

    def request(
        self,
        *,
        model: str,
        messages: str | Sequence[Mapping[str, Any]],
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
        purpose: str = "",
        after: str = "",
    ) -> str:
        """Write that a request is about to be asked, before it is.

        Args:
            model: who is asked.
            messages: chat messages, or plain text to be continued.
            seed: of the answer's sampling.
            settings: what else decides the answer: temperature, length limit ...
            purpose: what it is for, "round 3" for instance; sums may be taken over one purpose.
            after: for another attempt at a request that is in the ledger: what went wrong at the last one.

        Returns:
            its id.
        """
        content = {"model": model, "messages": messages, "seed": seed, "settings": dict(settings or {})}
        name = self.request_id(model, messages, seed, settings or {})
        with self._guard:
            if name in self._asked:
                self._write({"entry": "again", "request_id": name, "after": after})
            else:
                text = json.dumps(messages, sort_keys=True).encode()
                prompt_hash = hashlib.sha256(text).hexdigest()
                self._write(
                    {"entry": "request", "request_id": name, "purpose": purpose, "prompt_hash": prompt_hash, **content}
                )
        return name

    def answer(self, request_id: str, answer: Answer) -> None:
        """Write how a request ended, before anybody sees it.

        Raises:
            ValueError: there is no such request.
        """
        with self._guard:
            self._check(request_id)
            self._write({"entry": "answer", "request_id": request_id, **answer.as_entry()})

    def find(self, request_id: str) -> Answer | None:
        """How the request ended, or None where it was never asked or was cut off by the end of its process."""
        return self._answers.get(request_id)

    def parse(self, request_id: str, outcome: str, *, num_rows: int, detail: str = "") -> None:
        """Write what was found in an answer. The same said again, by a run that goes on, is written once.

        Args:
            request_id: whose answer.
            outcome: "parsed", "repaired", "rejected" ...; counted by this word.
            num_rows: how many rows came out of it.
            detail: what was wrong, for people.
        """
        self._write_once(
            ("parse", request_id),
            {"outcome": outcome, "num_rows": num_rows, "detail": detail, "request_id": request_id},
        )

    def record_outcome(
        self, request_id: str, index: int, row: Mapping[str, Any], *, accepted: bool, reason: str = "", label: str = ""
    ) -> None:
        """Write what became of one generated row. The same said again is written once; of two outcomes the last counts.

        Args:
            request_id: whose answer the row comes from.
            index: its position in that answer.
            row: the row itself.
            accepted: whether it is trained on.
            reason: why not, in a few words that are counted; may be empty where `accepted`.
            label: its class by name, where it has one; by default the row's "label".
        """
        self._write_once(
            ("outcome", request_id, index),
            {
                "request_id": request_id,
                "index": index,
                "row": dict(row),
                "accepted": accepted,
                "reason": reason,
                "label": str(label or row.get("label", "")),
            },
        )

    def unanswered(self) -> list[str]:
        """Requests that were asked and have no answer: those in flight when a process ended, or now."""
        return sorted(self._asked - self._answers.keys())

    def entries(self) -> Iterator[dict[str, Any]]:
        """All lines, in the order in which they were written."""
        return read_entries(self.path)

    def summary(self, purpose: str | None = None) -> LedgerSummary:
        """Sums over the ledger, or over the requests made for one purpose."""
        return summarize(self.entries(), purpose=purpose)

    def _write_once(self, key: tuple[Any, ...], content: dict[str, Any]) -> None:
        with self._guard:
            self._check(content["request_id"])
            entry = {"entry": key[0], **content}
            if self._known.get(key) != _digest(entry):
                self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self._lines.append({**entry, "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds")})
        self._remember(entry)

    def _remember(self, entry: Mapping[str, Any]) -> None:
        name = entry["request_id"]
        if entry["entry"] == "request":
            self._asked.add(name)
        elif entry["entry"] == "answer":
            self._answers[name] = Answer.from_entry(entry)
        elif entry["entry"] == "parse":
            self._known["parse", name] = _digest(entry)
        elif entry["entry"] == "outcome":
            self._known["outcome", name, entry["index"]] = _digest(entry)

    def _check(self, request_id: str) -> None:
        if request_id not in self._asked:
            raise ValueError(
                f"the ledger {self.path} holds no request {request_id!r}; call `request` before it is asked."
            )


def _file_of(path: Path) -> Path:
    if path.is_dir() or not (path.suffix or path.is_file()):
        return path / LEDGER_NAME
    return path


def _digest(entry: Mapping[str, Any]) -> str:
    """Short for the whole content of an entry, whenever it was written."""
    content = {key: value for key, value in entry.items() if key != "time"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
