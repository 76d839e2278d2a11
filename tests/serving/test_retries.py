from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from types import SimpleNamespace

import anyio
import pytest

from hf_distill.serving.retries import AttemptFailed, Pace, retry_after


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("0.5", 0.5), ("-2", 0.0), ("", None), ("soon", None), ("nan", None), ("inf", None), ("1e999", None)],
)
def test_retry_after_in_seconds_is_read_and_nonsense_is_ignored(value, seconds):
    assert retry_after({"retry-after": value} if value else {}) == seconds


def test_retry_after_as_a_date_of_any_zone_is_read_as_seconds_from_now():
    date = datetime.now(timezone.utc) + timedelta(seconds=90)
    for zone in (timezone.utc, timezone(timedelta(hours=-5))):
        assert 85 < retry_after({"retry-after": format_datetime(date.astimezone(zone))}) <= 90
    assert 85 < retry_after({"retry-after": date.strftime("%a, %d %b %Y %H:%M:%S -0000")}) <= 90
    assert retry_after({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0


def failed_attempt(number, error):
    return SimpleNamespace(attempt_number=number, outcome=SimpleNamespace(exception=lambda: error))


def test_waits_double_up_to_the_longest_and_differ():
    pace = Pace(requests_per_minute=None, first_wait=1.0, longest_wait=8.0)
    for number, top in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (9, 8.0)]:
        waits = [pace.wait_before_retry(failed_attempt(number, AttemptFailed("x"))) for _ in range(300)]
        assert 0 <= min(waits) < 0.1 * top
        assert 0.9 * top < max(waits) <= top, "drawn from the whole range, so that clients do not come back together"


def test_a_rate_holds_whatever_the_number_that_wait():
    async def run():
        pace = Pace(requests_per_minute=3000, first_wait=1.0, longest_wait=1.0)
        times = []

        async def one():
            await pace.turn()
            times.append(time.monotonic())

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(one)
        return times

    times = anyio.run(run)
    assert times[-1] - times[0] >= 9 * 0.02 - 0.005
