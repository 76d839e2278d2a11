"""One attempt that failed: what that means for the request, how long to wait, and how the endpoint's pace is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

from .answers import Status, Usage

if TYPE_CHECKING:
    from tenacity import RetryCallState


class AttemptFailed(Exception):
    """An attempt that gave no answer.

    Attributes:
        status: how the request ends if this was the last attempt.
        again: whether another attempt may succeed.
        blame: whose fault it is, as far as that can be told: the "request"'s, the "endpoint"'s, or either's.
        retry_after: seconds that the endpoint asked to wait.
        usage: what the attempt took all the same.
    """

    def __init__(
        self,
        problem: str,
        *,
        status: Status = "failed",
        again: bool = True,
        blame: Literal["request", "endpoint", "either"] = "request",
        retry_after: float | None = None,
        usage: Usage = Usage(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__(problem)
        self.status: Status = status
        self.again = again
        self.blame = blame
        self.retry_after = retry_after
        self.usage = usage


def may_succeed_later(error: BaseException) -> bool:
    """Whether to try again after `error`."""
    return isinstance(error, AttemptFailed) and error.again


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by the headers of an answer, given as seconds or as a date; None where they do not say.

    Raises nothing: a value that makes no sense is as good as none.
    """
    value = headers.get("retry-after", "")
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (TypeError, ValueError):
            return None
        if date.tzinfo is None:  # "-0000", of which RFC 5322 says that it is UTC
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - datetime.now(timezone.utc)).total_seconds()
    return max(seconds, 0.0) if math.isfinite(seconds) else None


class Pace:
    """When requests may start: evenly spaced where a rate is given, and none while the endpoint asks for a pause.

    Args:
        requests_per_minute: the most that may start in a minute; None for as many as there are.
        first_wait: seconds before a second attempt, at most; doubled for each further one, and drawn at random below
            that (full jitter, as Brooker describes it on the AWS architecture blog, 2015).
        longest_wait: where the doubling ends.
    """

    def __init__(self, *, requests_per_minute: float | None, first_wait: float, longest_wait: float) -> None:
        from tenacity import wait_random_exponential

        self._interval = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._back_off = wait_random_exponential(multiplier=first_wait, max=longest_wait)
        self._free_at = -math.inf

    async def turn(self) -> None:
        """Wait until a request may start."""
        import anyio

        while (wait := self._free_at - anyio.current_time()) > 0:
            await anyio.sleep(wait)
        self._free_at = anyio.current_time() + self._interval

    def wait_before_retry(self, state: RetryCallState) -> float:
        """Seconds before the next attempt; a pause that the endpoint asks for holds all requests, not only this one."""
        import anyio

        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, AttemptFailed) else None
        if asked is None:
            return self._back_off(state)
        self._free_at = max(self._free_at, anyio.current_time() + asked)
        return asked
