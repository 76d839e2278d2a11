"""The endpoint teacher against a server that misbehaves: nothing lost, nothing asked twice, a clear account."""

from __future__ import annotations

import asyncio
import time
from collections import deque

import pytest

from hf_distill import Answer, Budget, BudgetExhausted, Ledger, TeacherUnavailable, Usage
from hf_distill.serving import request_runner as asking
from hf_distill.serving.ledger import read_entries


def test_what_is_sent_is_what_an_openai_endpoint_takes(server, make_teacher):
    teacher = make_teacher(temperature=0.5, max_tokens=7, stop=["\n"], extra={"top_k": 3})
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hi"}]
    [answer] = teacher.generate([messages], seed=11)
    path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert body == {
        **{"model": "m", "messages": messages, "seed": 11, "temperature": 0.5, "max_tokens": 7, "stop": ["\n"]},
        "top_k": 3,
    }
    assert (answer.text, answer.status, answer.finish_reason) == ("answer to Hi", "answered", "stop")
    assert answer.usage == Usage(3, 4, None), "without prices the cost is unknown, and not 0"


def test_answers_come_in_the_order_of_the_prompts_and_a_few_at_a_time(server, make_teacher, steps):
    prompts = [f"p{index}" for index in range(12)]
    # The first are the slowest.
    for index, prompt in enumerate(prompts):
        server.script[prompt] = deque([later(0.06 - 0.005 * index, f"answer to {prompt}")])
    answers = make_teacher(concurrency=3).generate(prompts)
    assert [answer.text for answer in answers] == [f"answer to {prompt}" for prompt in prompts]
    assert server.most_busy == 3


def later(seconds, text):
    def step(handler):
        time.sleep(seconds)
        handler.send(200, b'{"choices": [{"message": {"content": "%s"}}]}' % text.encode())

    return step


def test_a_prompt_that_is_given_twice_is_sampled_twice_and_found_again(server, make_teacher, tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher()
        teacher.attach(ledger=ledger)
        first = teacher.generate(["p", "p"], seed=1)
        assert len({body["seed"] for _, _, body in server.requests}) == 2
        again = teacher.generate(["p", "p"], seed=1)
        assert server.asked["p"] == 2
        assert [answer.request_id for answer in again] == [answer.request_id for answer in first]
        assert len({answer.request_id for answer in again}) == 2
        teacher.generate(["p"], seed=2)
        assert server.asked["p"] == 3, "another seed is another request"


SOON = {
    "429 without a date": lambda steps: steps.status(429),
    "429 with nonsense": lambda steps: steps.status(429, retry_after="soon"),
    "408": lambda steps: steps.status(408),
    "500": lambda steps: steps.status(500),
    "503": lambda steps: steps.status(503, b"<html>busy</html>"),
    "dropped": lambda steps: steps.drop,
    "dropped in the middle": lambda steps: steps.drop_in_the_middle,
    "slow drip": lambda steps: steps.drip,
    "silence": lambda steps: steps.silence,
    "endless": lambda steps: steps.endless,
    "malformed JSON": lambda steps: steps.body(b'{"choices": [{"mess'),
    "a web page": lambda steps: steps.body(b"<html>welcome</html>"),
    "another shape": lambda steps: steps.body(b'{"choices": {}}'),
    "wrong encoding": lambda steps: steps.body(b'{"choices": [{"message": {"content": "caf\xe9"}}]}'),
    "empty": lambda steps: steps.body(b'{"choices": [{"message": {"content": " "}}]}'),
    "null": lambda steps: steps.body(b'{"choices": [{"message": {"content": null}}]}'),
    "deep": lambda steps: steps.body(b"[" * 200_000),
}


@pytest.mark.parametrize("name", SOON)
def test_what_may_pass_is_tried_again_and_nothing_is_lost(name, server, make_teacher, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(asking, "LARGEST_REPLY", 300_000)
    server.script["bad"] = deque([SOON[name](steps)])
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(read_timeout=0.3, answer_timeout=0.5)
        teacher.attach(ledger=ledger)
        answers = teacher.generate(["good", "bad", "fine"])
        assert [answer.text for answer in answers] == ["answer to good", "answer to bad", "answer to fine"]
        assert server.asked == {"good": 1, "bad": 2, "fine": 1}
        assert ledger.summary().num_attempts == 4
        [again] = [entry for entry in ledger.entries() if entry["entry"] == "again"]
        assert again["after"], "the ledger says why it was asked again"
        assert teacher.generate(["good", "bad", "fine"]) == [
            Answer(**{**vars(answer), "from_ledger": True}) for answer in answers
        ]
        assert server.asked.total() == 4


LASTING = {
    "500": ("failed", lambda steps: steps.status(500)),
    "dropped": ("failed", lambda steps: steps.drop),
    "slow drip": ("timed_out", lambda steps: steps.drip),
    "silence": ("timed_out", lambda steps: steps.silence),
    "malformed JSON": ("failed", lambda steps: steps.body(b"{")),
    "empty": ("failed", lambda steps: steps.body(b'{"choices": [{"message": {"content": ""}}]}')),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_does_not_pass_is_an_answer_with_its_status_and_the_others_go_on(
    name, server, make_teacher, steps, tmp_path
):
    status, make = LASTING[name]
    server.script["bad"] = deque([make(steps)] * 9)
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(read_timeout=0.2, answer_timeout=0.25)
        teacher.attach(ledger=ledger)
        start = time.monotonic()
        good, bad = teacher.generate(["good", "bad"])
        assert time.monotonic() - start < 5, "three attempts of a quarter of a second"
        assert good.status == "answered"
        assert (bad.status, bad.text) == (status, None)
        assert bad.error
        assert server.asked["bad"] == 3
        assert ledger.summary().answers == {"answered": 1, status: 1}
        # A run that goes on must go the way it went; who wants another try asks for it.
        assert teacher.generate(["bad"])[0].error == bad.error
        assert server.asked["bad"] == 3
        server.script["bad"].clear()
        teacher.retry_failed = True
        assert teacher.generate(["bad"])[0].text == "answer to bad"
        assert ledger.summary().answers == {"answered": 2}


def test_a_server_that_hangs_up_after_an_answer_does_not_lose_the_next_request(server, make_teacher, steps):
    server.always = deque([steps.once_per_connection] * 20)
    answers = make_teacher(concurrency=1, attempts=1).generate([f"p{index}" for index in range(20)])
    assert [answer.status for answer in answers] == ["answered"] * 20


def test_an_answer_without_end_is_given_up_by_its_size_before_its_time(server, make_teacher, steps, monkeypatch):
    monkeypatch.setattr(asking, "LARGEST_REPLY", 300_000)
    server.script["bad"] = deque([steps.endless] * 3)
    bad = make_teacher(concurrency=2).generate(["good", "bad"])[1]
    assert (bad.status, bad.error) == ("failed", "the answer does not end within 300000 bytes")


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_the_server_rejects_is_not_sent_again(code, server, make_teacher, steps):
    server.script["bad"] = deque([steps.status(code, b'{"error": {"message": "context too long"}}')])
    good, bad = make_teacher().generate(["good", "bad"])
    assert (good.status, bad.status) == ("answered", "failed")
    assert bad.error == f"the endpoint answered {code}: context too long"
    assert server.asked["bad"] == 1


@pytest.mark.parametrize("how", ["finish reason", "refusal", "400"])
def test_a_refusal_is_told_from_a_failure_and_not_asked_again(how, server, make_teacher, steps, good_reply):
    server.script["bad"] = deque(
        [
            {
                "finish reason": steps.body(good_reply("I ca", finish_reason="content_filter")),
                "refusal": steps.body(good_reply(None, refusal="I cannot help with that.")),
                "400": steps.status(400, b'{"error": {"code": "content_filter", "message": "filtered"}}'),
            }[how]
        ]
    )
    [bad] = make_teacher(prompt_price=1e6, completion_price=1e6).generate(["bad"])
    assert (bad.status, bad.text) == ("refused", None)
    assert bad.error
    assert server.asked["bad"] == 1
    assert bad.usage == (Usage() if how == "400" else Usage(3, 4, 7.0)), "a refusal costs what it took"


@pytest.mark.parametrize("code", [401, 402, 403, 404, 307])
def test_a_server_that_lets_nobody_in_ends_the_run_at_once_and_keeps_what_was_answered(
    code, server, make_teacher, steps, tmp_path
):
    server.script["bad"] = deque([steps.status(code)] * 9)
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(concurrency=1)
        teacher.attach(ledger=ledger)
        with pytest.raises(TeacherUnavailable, match=f"'m' is unavailable: the endpoint answered {code}"):
            teacher.generate(["good", "bad", "never"])
        assert server.asked == {"good": 1, "bad": 1}
        assert ledger.summary().answers == {"answered": 1, "unanswered": 1}
        server.script["bad"].clear()
        assert [answer.status for answer in teacher.generate(["good", "bad", "never"])] == ["answered"] * 3
        assert server.asked == {"good": 1, "bad": 2, "never": 1}


def test_an_outage_is_not_recorded_as_the_answer_of_every_prompt(server, make_teacher, steps, tmp_path):
    server.always = deque([steps.status(503)] * 30)
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher()
        teacher.attach(ledger=ledger)
        with pytest.raises(TeacherUnavailable, match="503"):
            teacher.generate([f"p{index}" for index in range(20)])
        assert ledger.summary().answers == {"unanswered": 8}


@pytest.mark.parametrize("name", ["a web page", "another shape", "500", "dropped"])
def test_an_endpoint_that_never_answers_is_not_recorded_as_the_answer_of_every_prompt(
    name, server, make_teacher, steps, tmp_path
):
    server.always = deque([SOON[name](steps)] * 100)
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(concurrency=2)
        teacher.attach(ledger=ledger)
        with pytest.raises(TeacherUnavailable, match="answered none of 3 requests, the last with: the "):
            teacher.generate([f"p{index}" for index in range(20)])
        assert ledger.summary().answers == {"unanswered": len(server.asked)}
        server.always.clear()
        assert {answer.status for answer in teacher.generate([f"p{index}" for index in range(20)])} == {"answered"}
        assert teacher.works


def test_a_failure_before_the_first_answer_is_recorded_once_there_is_one(server, make_teacher, steps, tmp_path):
    server.script["bad"] = deque([steps.status(500)] * 3)
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(concurrency=1)
        teacher.attach(ledger=ledger)
        bad, good = teacher.generate(["bad", "good"])
        assert (bad.status, good.status) == ("failed", "answered")
        assert ledger.unanswered() == []


def test_a_server_that_is_not_there_is_said_to_be_unavailable(make_teacher, server):
    teacher = make_teacher()
    server.shutdown()
    server.server_close()
    with pytest.raises(TeacherUnavailable, match="no connection"):
        teacher.generate(["p"])


def test_a_spent_quota_is_not_a_rate_limit(server, make_teacher, steps):
    body = b'{"error": {"code": "insufficient_quota", "message": "pay first"}}'
    server.script["p"] = deque([steps.status(429, body)])
    with pytest.raises(TeacherUnavailable, match="pay first"):
        make_teacher().generate(["p"])
    assert server.asked["p"] == 1


def test_a_pause_that_the_server_asks_for_is_kept_by_all_requests(server, make_teacher, steps):
    prompts = [f"p{index}" for index in range(6)]
    server.script["p0"] = deque([steps.status(429, retry_after="0.4")])
    answers = make_teacher(concurrency=1).generate(prompts)
    assert all(answer.status == "answered" for answer in answers)
    assert server.times[1] - server.times[0] >= 0.4
    server.times.clear()
    server.script["p0"] = deque([steps.status(429, retry_after="0.4")])
    server.script |= {prompt: deque([steps.slow(0.1)]) for prompt in prompts[1:]}
    make_teacher(concurrency=2).generate(prompts, seed=1)
    early = [at for at in server.times if at - server.times[0] < 0.35]
    assert len(early) == 2, "p1 was under way; nothing else starts"


def test_a_pause_that_is_too_long_ends_the_run_and_says_how_long_it_is(server, make_teacher, steps):
    server.script["p"] = deque([steps.status(429, retry_after="3600")])
    with pytest.raises(TeacherUnavailable, match="asks to wait 3600 s, but longest_wait is 2"):
        make_teacher().generate(["p"])
    assert server.asked["p"] == 1


def test_requests_per_minute_spaces_requests(server, make_teacher):
    make_teacher(requests_per_minute=600).generate([f"p{index}" for index in range(5)])
    assert server.times[-1] - server.times[0] > 0.3


def test_the_price_counts_attempts_that_gave_no_text(server, make_teacher, steps, good_reply):
    server.script["p"] = deque([steps.body(good_reply("", usage=(3, 1)))])
    [answer] = make_teacher(prompt_price=2e6, completion_price=10e6).generate(["p"])
    assert answer.usage == Usage(6, 5, 6 * 2 + 5 * 10)


@pytest.mark.parametrize(
    "usage", [b'{"prompt_tokens": "3"}', b'{"prompt_tokens": -1}', b"[]", b"null", b'{"prompt_tokens": true}']
)
def test_usage_that_makes_no_sense_is_unknown_and_not_zero(usage, server, make_teacher, steps):
    body = b'{"choices": [{"message": {"content": "x"}}], "usage": ' + usage + b"}"
    server.script["p"] = deque([steps.body(body)])
    [answer] = make_teacher(prompt_price=1.0, completion_price=1.0).generate(["p"])
    assert answer.usage == Usage(None, None, None)
    assert answer.status == "answered"


def test_half_a_surrogate_pair_does_not_come_through(server, make_teacher, steps):
    server.script["p"] = deque([steps.body(b'{"choices": [{"message": {"content": "a\\ud83d b \\ud83d\\ude42"}}]}')])
    [answer] = make_teacher().generate(["p"])
    assert answer.text == "a? b 🙂"


def test_a_budget_in_requests_is_kept_to_the_request_with_retries_counted(server, make_teacher, steps, tmp_path):
    server.script["p1"] = deque([steps.status(500)])
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher()
        teacher.attach(ledger=ledger, budget=Budget(requests=5))
        with pytest.raises(BudgetExhausted, match=r"budget of 5 in requests is spent \(5\)") as stop:
            teacher.generate([f"p{index}" for index in range(10)])
        assert server.asked.total() == 5
        answered = [answer for answer in stop.value.answers if answer]
        assert len(stop.value.answers) == 10
        assert len(answered) == ledger.summary().answers["answered"] == 4


def test_a_resumed_run_has_what_is_left_of_its_budget(server, make_teacher, tmp_path):
    prompts = [f"p{index}" for index in range(6)]
    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            teacher = make_teacher(concurrency=1)
            teacher.attach(ledger=ledger, budget=Budget(requests=4))
            with pytest.raises(BudgetExhausted) as stop:
                teacher.generate(prompts)
            assert [answer and answer.text for answer in stop.value.answers] == [
                *(f"answer to {prompt}" for prompt in prompts[:4]),
                *[None, None],
            ]
    assert server.asked.total() == 4
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher()
        teacher.attach(ledger=ledger, budget=Budget(requests=6))
        assert [answer.from_ledger for answer in teacher.generate(prompts)] == [True] * 4 + [False] * 2


@pytest.mark.parametrize(("budget", "limit"), [({"tokens": 20}, 3), ({"money": 7.5}, 2)])
def test_a_budget_in_tokens_or_money_goes_over_by_no_more_than_what_is_under_way(budget, limit, server, make_teacher):
    teacher = make_teacher(concurrency=1, prompt_price=1e6, completion_price=0.5e6)  # 7 tokens, 5 in money, an answer
    teacher.attach(budget=Budget(**budget))
    with pytest.raises(BudgetExhausted):
        teacher.generate([f"p{index}" for index in range(10)])
    assert server.asked.total() == limit


def test_a_budget_in_money_without_prices_is_an_error_and_not_free(server, make_teacher, tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(concurrency=1)
        teacher.attach(ledger=ledger, budget=Budget(money=1.0))
        with pytest.raises(ValueError, match="give the teacher's prompt_price and completion_price"):
            teacher.generate(["a", "b"])
        assert server.asked.total() == 1
        assert ledger.summary().answers == {"answered": 1}, "what was paid for is kept"


def test_a_teacher_works_where_an_event_loop_is_running_as_in_a_notebook(make_teacher):
    async def cell():
        return make_teacher().generate(["p"])

    assert asyncio.run(cell())[0].text == "answer to p"


def test_a_full_disk_stops_the_run_before_anything_is_asked(server, make_teacher, tmp_path, monkeypatch):
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher()
        teacher.attach(ledger=ledger)

        def full(entry):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(ledger._lines, "append", full)
        with pytest.raises(OSError, match="No space left"):
            teacher.generate(["p"])
    assert not server.asked
    assert list(read_entries(tmp_path)) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concurrency": 0}, "concurrency is 0"),
        ({"attempts": 0}, "attempts is 0"),
        ({"answer_timeout": -1}, "answer_timeout is -1"),
        ({"requests_per_minute": 0}, "requests_per_minute is 0"),
        ({"extra": {"stream": True}}, "extra sets stream"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message, make_teacher):
    with pytest.raises(ValueError, match=message):
        make_teacher(**options)


def test_messages_without_a_chat_are_refused_before_anything_is_written(server, make_teacher, tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = make_teacher(chat=False)
        teacher.attach(ledger=ledger)
        with pytest.raises(ValueError, match="only a chat has a template"):
            teacher.generate([[{"role": "user", "content": "Hi"}]])
        assert list(ledger.entries()) == []
    assert not server.asked
