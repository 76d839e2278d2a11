"""What a teacher answered to one request, and what that cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Status = Literal["answered", "refused", "timed_out", "failed"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True)
class Usage:
    """What one answer took; None where nobody said.

    Attributes:
        prompt_tokens: tokens read.
        completion_tokens: tokens written.
        cost: in the currency of the prices given to the teacher.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cost: float | None = None


@dataclass(frozen=True)
class Answer:
    """The end of one request.

    Attributes:
        text: what the teacher wrote; None unless `status` is "answered".
        status: "answered"; "refused" by the teacher or its content filter; "timed_out" or "failed" at every attempt.
        usage: what it took.
        error: what went wrong, for people; empty where nothing did.
        finish_reason: why the teacher stopped, in the endpoint's words; "length" marks an answer that was cut off.
        request_id: the request in the ledger.
        from_ledger: whether it was known already, so that nothing was asked.
    """

    text: str | None
    status: Status = "answered"
    usage: Usage = Usage()
    error: str = ""
    finish_reason: str = ""
    request_id: str = ""
    from_ledger: bool = False

    def as_entry(self) -> dict[str, Any]:
        """Its fields for the ledger; read back by `from_entry`."""
        entry = asdict(self)
        del entry["request_id"], entry["from_ledger"]
        return entry

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Answer:
        """The answer that the ledger's line `entry` holds."""
        known = {field.name for field in fields(cls)} & entry.keys() - {"usage"}
        return cls(**{name: entry[name] for name in known}, usage=Usage(**entry["usage"]), from_ledger=True)
