"""A run that is killed in the middle of its requests, and goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import deque

import pytest

from hf_distill import Ledger
from hf_distill.serving.ledger import read_entries
from hf_distill.serving.summary import summarize

PROMPTS = [f"p{index}" for index in range(20)]
CODE = """
import sys
from hf_distill import EndpointTeacher, Ledger
with Ledger(sys.argv[2]) as ledger:
    teacher = EndpointTeacher(sys.argv[1], "m", concurrency=3)
    teacher.attach(ledger=ledger)
    teacher.generate([f"p{index}" for index in range(20)], seed=5)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_pays_again_only_for_what_was_under_way(number, server, make_teacher, steps, tmp_path):
    server.script = {prompt: deque([steps.slow(0.1)]) for prompt in PROMPTS}
    process = subprocess.Popen([sys.executable, "-c", CODE, server.url, tmp_path], stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while server.asked.total() < 9:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    process.communicate(timeout=10)
    server.script.clear()

    before = summarize(read_entries(tmp_path))
    assert set(before.answers) == {"answered", "unanswered"}
    assert 1 <= before.answers["unanswered"] <= 3
    asked = dict(server.asked)
    with Ledger(tmp_path) as ledger:
        under_way = {entry["messages"] for entry in ledger.entries() if entry.get("request_id") in ledger.unanswered()}
        teacher = make_teacher(concurrency=3)
        teacher.attach(ledger=ledger)
        answers = teacher.generate(PROMPTS, seed=5)
        assert [answer.status for answer in answers] == ["answered"] * 20
        assert sum(answer.from_ledger for answer in answers) == before.answers["answered"]
        assert {prompt for prompt in PROMPTS if server.asked[prompt] == 2} <= under_way, (
            "only these were paid for twice"
        )
        assert {prompt for prompt in asked if server.asked[prompt] == 1} == asked.keys() - under_way
        assert max(server.asked.values()) <= 2
        assert (ledger.summary().answers, ledger.unanswered()) == ({"answered": 20}, [])
        assert ledger.summary().num_attempts == 20 + before.answers["unanswered"]
