"""What every text teacher has from its base class, with a teacher as short as a plugin's."""

from __future__ import annotations

import pytest

from hf_distill import Answer, Budget, BudgetExhausted, Ledger, TextTeacher, Usage
from hf_distill.serving.text_teacher import price


class Parrot(TextTeacher):
    model = "parrot"

    def __init__(self, *, loud: bool = False) -> None:
        self.loud = loud
        self.asked = []

    def settings(self):
        return {"loud": self.loud}

    def ask(self, requests, account):
        for request in requests:
            account.begin(request)
            self.asked.append(request.messages)
            text = request.messages if isinstance(request.messages, str) else request.messages[-1]["content"]
            account.finish(request, Answer(text.upper() if self.loud else text, usage=Usage(1, 1, 0.5)))


def test_a_teacher_of_a_few_lines_has_ledger_and_budget(tmp_path):
    chat = [{"role": "user", "content": "Hi"}]
    for turn in range(2):
        with Ledger(tmp_path) as ledger:
            teacher, budget = Parrot(), Budget(money=10.0)
            teacher.attach(ledger=ledger, budget=budget)
            answers = teacher.generate(["a", chat], seed=3, purpose="round 1")
            assert [answer.text for answer in answers] == ["a", "Hi"]
            assert [answer.from_ledger for answer in answers] == [turn == 1] * 2
            assert teacher.asked == ([] if turn else ["a", chat])
            assert (budget.spent_requests, budget.spent_tokens, budget.spent_money) == (2, 4, 1.0)
            assert ledger.summary("round 1").cost == 1.0


def test_settings_that_differ_are_not_answered_from_one_another(tmp_path):
    with Ledger(tmp_path) as ledger:
        texts = []
        for loud in (False, True):
            teacher = Parrot(loud=loud)
            teacher.attach(ledger=ledger)
            texts.append(teacher.generate(["a"])[0].text)
    assert texts == ["a", "A"]


def test_a_teacher_works_without_ledger_and_budget():
    assert [answer.text for answer in Parrot().generate(["a", "a"])] == ["a", "a"]
    assert Parrot().generate([]) == []


def test_two_teachers_share_a_budget_that_counts_their_ledger_once(tmp_path):
    with Ledger(tmp_path) as ledger:
        first = Parrot()
        first.attach(ledger=ledger)
        first.generate(["a", "b"])
        budget = Budget(requests=3)
        for loud in (False, True):
            teacher = Parrot(loud=loud)
            teacher.attach(ledger=ledger, budget=budget)
        assert budget.spent_requests == 2
        with pytest.raises(BudgetExhausted) as stop:
            teacher.generate(["c", "d"])
        assert [answer and answer.text for answer in stop.value.answers] == ["C", None]


@pytest.mark.parametrize("prompts", ["text", [3], [[]], [["text"]], [[{"role": "user"}]], [{"role": "user"}]])
def test_what_is_no_prompt_is_refused(prompts):
    with pytest.raises(ValueError, match="expected"):
        Parrot().generate(prompts)


@pytest.mark.parametrize("prompt", ["\ud800", [{"role": "user", "content": {1}}]])
def test_a_prompt_that_cannot_be_sent_is_refused_before_it_is_written(prompt, tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = Parrot()
        teacher.attach(ledger=ledger)
        with pytest.raises(ValueError, match="cannot be sent as JSON"):
            teacher.generate(["good", prompt])
        assert list(ledger.entries()) == []


@pytest.mark.parametrize("limit", [-1, float("nan"), "5", True])
def test_a_budget_that_makes_no_sense_is_refused(limit):
    with pytest.raises(ValueError, match="The budget's tokens is"):
        Budget(tokens=limit)


def test_a_budget_of_nothing_asks_nothing():
    teacher = Parrot()
    teacher.attach(budget=Budget(requests=0))
    with pytest.raises(BudgetExhausted):
        teacher.generate(["a"])
    assert teacher.asked == []


def test_a_price_needs_both_prices_and_both_counts():
    assert price(Usage(2_000_000, 500_000), prompt_price=0.15, completion_price=0.6).cost == pytest.approx(0.6)
    assert price(Usage(1, None), prompt_price=0.15, completion_price=0.6).cost is None
    assert price(Usage(1, 1), prompt_price=None, completion_price=0.6).cost is None
    assert price(Usage(1, 1), prompt_price=0.0, completion_price=0.0).cost == 0.0
