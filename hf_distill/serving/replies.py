"""What an endpoint's reply means: an answer, a refusal, or an attempt that failed and why."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .answers import Answer, Usage
from .retries import AttemptFailed, retry_after

REFUSALS = ("content_filter", "content_policy_violation")
OVERDUE = (408, 504)
# Perhaps of one request, where the others are well; any other status from 500 up says that the endpoint is not.
BROKEN_REQUEST = (500,)
LOCKED = (401, 402, 403, 404, 405)
AGAIN = (409, 425)


@dataclass(frozen=True)
class Reply:
    """A whole HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def answer_of(reply: Reply) -> Answer:
    """The answer in `reply`, without its cost.

    Raises:
        AttemptFailed: there is none.
    """
    if reply.status != 200:
        return _refusal_or_failure(reply)
    try:
        # Bytes, not text: JSON is UTF-8 by definition (RFC 8259, 8.1), and what is not must not be patched up.
        content = json.loads(reply.body)
    except (ValueError, RecursionError) as error:
        problem = f"the answer is not JSON in UTF-8 ({type(error).__name__}: {_line(error)})"
        raise AttemptFailed(problem, blame="either") from None
    usage = _usage(content)
    choice = _first(content, "choices")
    message = _get(choice, "message")
    finish_reason = _get(choice, "finish_reason")
    finish_reason = finish_reason if isinstance(finish_reason, str) else ""
    refusal = _get(message, "refusal")
    if finish_reason in REFUSALS or (isinstance(refusal, str) and refusal):
        reason = refusal if isinstance(refusal, str) else ""
        return Answer(None, "refused", usage, error=_line(reason or finish_reason), finish_reason=finish_reason)
    text = _get(message, "content") if message is not None else _get(choice, "text")
    if choice is None or not isinstance(text, (str, type(None))):
        problem = f"the answer has another shape than an OpenAI endpoint's: {_line(reply.body)}"
        raise AttemptFailed(problem, blame="either", usage=usage)
    if text is None or not text.strip():
        raise AttemptFailed(f"the answer is empty (finish reason {finish_reason or 'not given'})", usage=usage)
    # Half of a surrogate pair, which JSON can spell, is no text and cannot be tokenized.
    text = text.encode("utf-8", "replace").decode()
    return Answer(text, usage=usage, finish_reason=finish_reason)


def _refusal_or_failure(reply: Reply) -> Answer:
    try:
        error = _get(json.loads(reply.body), "error")
    except (ValueError, RecursionError):
        error = None
    code = _get(error, "code")
    message = _get(error, "message") or (error if isinstance(error, str) else None)
    says = f": {_line(message)}" if isinstance(message, str) and message else ""
    problem = f"the endpoint answered {reply.status}{says}"
    status = reply.status
    if code in REFUSALS:
        return Answer(None, "refused", error=problem, finish_reason=str(code))
    if status == 429:
        again = code != "insufficient_quota"
        raise AttemptFailed(problem, again=again, blame="endpoint", retry_after=retry_after(reply.headers))
    if status in LOCKED or 300 <= status < 400:
        raise AttemptFailed(problem, again=False, blame="endpoint")
    if status in OVERDUE:
        raise AttemptFailed(problem, status="timed_out")
    if status in BROKEN_REQUEST or status in AGAIN:
        raise AttemptFailed(problem, blame="either")
    if status >= 500:
        raise AttemptFailed(problem, blame="endpoint", retry_after=retry_after(reply.headers))
    raise AttemptFailed(problem, again=False)


def _usage(content: Any) -> Usage:
    counts = [_get(_get(content, "usage"), name) for name in ("prompt_tokens", "completion_tokens")]
    known = [
        count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None for count in counts
    ]
    return Usage(*known)


def _get(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _first(value: Any, name: str) -> Any:
    items = _get(value, name)
    return items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else None


def _line(value: Any) -> str:
    """`value` on one line, and uncut: only once the key is taken out of it may it be."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return " ".join(text.encode("utf-8", "replace").decode().split())
