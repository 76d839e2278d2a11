from __future__ import annotations

import pytest

from hf_distill import Answer, Ledger, Usage


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as ledger:

        def ask(seed, answer, purpose):
            name = ledger.request(model="m", messages="p", seed=seed, purpose=purpose)
            if answer is not None:
                ledger.answer(name, answer)
            return name

        first = ask(0, Answer("text", usage=Usage(10, 20, 0.5)), "round 1")
        ask(1, Answer(None, "refused", Usage(5, 0, 0.25)), "round 1")
        second = ask(2, Answer("text", usage=Usage(7, 3, None)), "round 2")
        ask(3, None, "round 2")
        ledger.parse(first, "parsed", num_rows=3)
        ledger.parse(second, "repaired", num_rows=1)
        for index, (text, label, reason) in enumerate([("a", "x", ""), ("b", "x", "too long"), ("c", "y", "leak")]):
            ledger.record_outcome(first, index, {"text": text, "label": label}, accepted=not reason, reason=reason)
        ledger.record_outcome(second, 0, {"text": "d"}, accepted=False, reason="leak", label="x")
        yield ledger


def test_sums_are_those_made_by_hand(ledger):
    summary = ledger.summary()
    assert (summary.num_requests, summary.num_attempts, summary.models) == (4, 4, {"m": 4})
    assert (summary.prompt_tokens, summary.completion_tokens) == (22, 23)
    assert (summary.cost, summary.num_unknown_cost) == (0.75, 1)
    assert summary.answers == {"answered": 2, "refused": 1, "unanswered": 1}
    assert summary.parses == {"parsed": 1, "repaired": 1}
    assert (summary.num_rows, summary.num_accepted, summary.rejected) == (4, 1, {"leak": 2, "too long": 1})
    assert {name: (one.accepted, one.rejected) for name, one in summary.classes.items()} == {"x": (1, 2), "y": (0, 1)}
    assert summary.classes["x"].examples == [{"text": "a", "label": "x"}]


def test_sums_over_one_purpose_leave_the_others_out(ledger):
    summary = ledger.summary("round 2")
    assert (summary.num_requests, summary.prompt_tokens, summary.cost) == (2, 7, None)
    assert (summary.answers, summary.rejected) == ({"answered": 1, "unanswered": 1}, {"leak": 1})


def test_a_request_that_was_paid_for_twice_costs_twice(tmp_path):
    with Ledger(tmp_path) as ledger:
        for _ in range(2):
            name = ledger.request(model="m", messages="p")
            ledger.answer(name, Answer("text", usage=Usage(1, 1, 0.5)))
        assert ledger.summary().cost == 1.0
        assert ledger.summary().answers == {"answered": 1}


def test_a_cost_that_nobody_knows_is_not_zero(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.answer(ledger.request(model="m", messages="p"), Answer("text"))
        assert ledger.summary().cost is None
