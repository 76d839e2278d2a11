"""The key goes to the server and nowhere else."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import traceback
from collections import deque
from pathlib import Path

import pytest

import hf_distill
from hf_distill import Budget, EndpointTeacher, Ledger, TeacherUnavailable
from hf_distill.cli.main import main
from hf_distill.serving.credentials import check_url, read_key

KEY = "sk-Secret+Key/0123456789=="


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")


def test_the_server_gets_the_key_that_was_named_and_no_other(server, make_teacher):
    make_teacher(api_key_env="TEACHER_KEY").generate(["a"])
    make_teacher().generate(["b"])
    assert [headers.get("Authorization") for _, headers, _ in server.requests] == [f"Bearer {KEY}", None]
    assert "sk-of-somebody-else" not in str(server.requests)


def test_the_key_is_in_no_file_log_exception_or_report(
    server, make_teacher, steps, good_reply, tmp_path, caplog, capsys
):
    caplog.set_level(logging.DEBUG)
    echo = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}. Header: Bearer {KEY}"}}).encode()
    server.script = {
        "echo": deque([steps.body(good_reply(f"your key is {KEY}"))]),
        "refused": deque([steps.body(good_reply(None, refusal=f"not with {KEY}"))]),
        "bad": deque([steps.status(400, echo)]),
        "shape": deque([steps.body(json.dumps({"key": KEY}).encode())] * 9),
        "again": deque([steps.status(500, echo)]),
        "locked": deque([steps.status(401, echo)]),
    }
    texts = []
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        teacher = make_teacher(api_key_env="TEACHER_KEY")
        teacher.attach(ledger=ledger, budget=Budget(requests=100))
        answers = teacher.generate(["echo", "refused", "bad", "shape", "again"])
        assert answers[0].text == "your key is ***"
        with pytest.raises(TeacherUnavailable, match=r"Incorrect API key provided: \*\*\*") as error:
            teacher.generate(["locked"])
        trace = traceback.TracebackException.from_exception(error.value, capture_locals=True)
        ours = [frame for frame in trace.stack if frame.filename.startswith(str(Path(hf_distill.__file__).parent))]
        assert len(ours) >= 3
        texts += [
            str([(frame.line, frame.locals) for frame in ours]),
            str(error.value),
            repr(answers),
            repr(vars(teacher)),
            repr(ledger.summary()),
        ]
    assert main(["ledger", "show", str(tmp_path)]) == 0
    assert main(["ledger", "show", str(tmp_path), "--json"]) == 0
    captured = capsys.readouterr()
    texts += [captured.out, captured.err, caplog.text]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert server.asked.total() == 9, "the key was really sent, and really sent back"
    assert "HTTP Request" in caplog.text, "the client's own log was on"
    for text in texts:
        for secret in (KEY, json.dumps(KEY)[1:-1], "Secret"):
            assert secret not in text


def test_a_key_where_a_long_message_is_cut_is_not_left_by_halves(server, make_teacher, steps):
    for length in range(240, 310, 10):
        body = json.dumps({"error": {"message": "x" * length + KEY + "y" * 300}}).encode()
        server.script["p"] = deque([steps.status(400, body)])
        [answer] = make_teacher(api_key_env="TEACHER_KEY").generate(["p"])
        assert "xs" not in answer.error, "the key starts with an s"
        assert len(answer.error) < 320


@pytest.mark.parametrize("name", [KEY, "hf_AbCdEf", "sk-123", "teacher key", ""])
def test_a_key_given_in_place_of_its_name_is_not_repeated(name):
    with pytest.raises(ValueError, match="not the NAME of an environment variable") as error:
        EndpointTeacher("http://127.0.0.1:1/v1", "m", api_key_env=name)
    assert not name or name not in str(error.value)


@pytest.mark.parametrize("value", ["", "  ", "two words", "caf\u00e9", "a\nb"])
def test_what_cannot_be_a_key_is_an_error_that_does_not_show_it(value, monkeypatch):
    monkeypatch.setenv("TEACHER_KEY", value)
    with pytest.raises(ValueError, match="TEACHER_KEY is not set, or what it holds is no key") as error:
        read_key("TEACHER_KEY")
    assert not value.strip() or value not in str(error.value)


@pytest.mark.parametrize("url", ["http://me:hush@host/v1", "https://host/v1?key=hush"])
def test_a_key_in_the_url_is_refused_and_not_repeated(url):
    with pytest.raises(ValueError, match="holds a key, a password or a query") as error:
        check_url(url)
    assert "hush" not in str(error.value)


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match="expected one such as"):
        check_url(url)


def test_a_missing_client_is_one_error_that_names_the_extra():
    code = (
        "import sys; sys.modules['httpx'] = None\n"
        "from hf_distill import EndpointTeacher\n"
        "EndpointTeacher('http://127.0.0.1:1/v1', 'm').generate(['p'])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ValueError: An endpoint needs httpx: pip install 'hf-distill[server]'." in result.stderr
