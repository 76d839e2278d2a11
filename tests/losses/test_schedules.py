"""Schedules of weights."""

from __future__ import annotations

import pytest

from hf_distill.losses.schedules import Schedule


def values(spec, steps, *, max_steps=100):
    schedule = Schedule.parse(spec)
    return [schedule.value(step, max_steps) for step in steps]


@pytest.mark.parametrize("spec", [0.25, 1, Schedule(0.25, 0.25)])
def test_a_number_stays(spec):
    assert len(set(values(spec, [0, 1, 50, 100, 1000]))) == 1


def test_a_linear_way_ends_where_it_should_and_stays():
    assert values({"start": 1.0, "end": 0.0, "steps": 10}, [0, 5, 10, 99]) == [1.0, 0.5, 0.0, 0.0]
    assert values({"start": 0, "end": 2, "fraction": 0.5}, [0, 25, 50, 100]) == [0.0, 1.0, 2.0, 2.0]
    assert values({"start": 0, "end": 1}, [0, 25, 100]) == [0.0, 0.25, 1.0]


def test_a_cosine_way_is_slow_at_both_ends():
    start, quarter, half, end = values({"start": 0, "end": 1, "shape": "cosine"}, [0, 25, 50, 100])
    assert (start, end) == (0.0, 1.0)
    assert half == pytest.approx(0.5)
    assert quarter == pytest.approx((1 - 2**-0.5) / 2)


def test_a_run_of_no_steps_is_at_its_end():
    assert values({"start": 1.0, "end": 0.5}, [0], max_steps=0) == [0.5]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0.5", "expected a number"),
        (True, "expected a number"),
        (float("nan"), "expected a number"),
        ({"start": 1.0}, "lacks end"),
        ({"end": 1.0}, "lacks start"),
        ({"start": 1.0, "end": 0.0, "stepz": 3}, "Unknown keys \\['stepz'\\]"),
        ({"start": "a", "end": 0.0}, "start is 'a'"),
        ({"start": 0.0, "end": float("inf")}, "end is inf"),
        ({"start": 1.0, "end": 0.0, "steps": 3, "fraction": 0.5}, "give one of them"),
        ({"start": 1.0, "end": 0.0, "steps": 0}, "positive whole number"),
        ({"start": 1.0, "end": 0.0, "steps": 1.5}, "positive whole number"),
        ({"start": 1.0, "end": 0.0, "fraction": 0}, "above 0 and up to 1"),
        ({"start": 1.0, "end": 0.0, "fraction": 2}, "above 0 and up to 1"),
        ({"start": 1.0, "end": 0.0, "shape": "square"}, '"linear" or "cosine"'),
    ],
)
def test_an_invalid_schedule_is_an_error_that_says_what_is_wrong(spec, message):
    with pytest.raises(ValueError, match=message):
        Schedule.parse(spec)
