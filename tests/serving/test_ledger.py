from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from hf_distill import Answer, Ledger, Usage
from hf_distill.serving.ledger import read_entries

REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "seed": 3, "settings": {"temperature": 0.5}}


def test_a_request_is_on_disk_before_its_answer_and_both_come_back(tmp_path):
    answer = Answer("text", usage=Usage(1, 2, 0.5), finish_reason="stop")
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        name = ledger.request(**REQUEST, purpose="round 1")
        assert [entry["entry"] for entry in read_entries(tmp_path)] == ["request"]
        assert ledger.find(name) is None
        ledger.answer(name, answer)
    with Ledger(tmp_path) as ledger:
        found = ledger.find(name)
        assert (found.text, found.status, found.usage) == ("text", "answered", Usage(1, 2, 0.5))
        assert found.from_ledger
        assert found.request_id == name
        assert ledger.find("0" * 32) is None


@pytest.mark.parametrize(
    "change",
    [{"model": "n"}, {"messages": "Hi"}, {"seed": 4}, {"settings": {"temperature": 0.6}}, {"settings": {}}],
)
def test_requests_that_differ_in_anything_are_not_taken_for_one_another(change):
    assert Ledger.request_id(**REQUEST) != Ledger.request_id(**{**REQUEST, **change})


def test_the_id_is_the_same_in_another_process():
    code = f"from hf_distill import Ledger; print(Ledger.request_id(**{REQUEST!r}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == Ledger.request_id(**REQUEST)


def test_requests_that_were_cut_off_are_named_after_a_restart(tmp_path):
    with Ledger(tmp_path) as ledger:
        done, cut = (ledger.request(**{**REQUEST, "seed": seed}) for seed in (0, 1))
        ledger.answer(done, Answer("text"))
    with Ledger(tmp_path) as ledger:
        assert ledger.unanswered() == [cut]
        ledger.request(**{**REQUEST, "seed": 1}, after="its process ended")
        assert ledger.summary().num_requests == 2
        assert ledger.summary().num_attempts == 3


def test_a_run_that_goes_on_does_not_write_fates_twice(tmp_path):
    for _ in range(2):
        with Ledger(tmp_path) as ledger:
            name = ledger.request_id(**REQUEST)
            if ledger.find(name) is None:
                ledger.answer(ledger.request(**REQUEST), Answer("[]"))
            ledger.parse(name, "parsed", num_rows=2)
            # Two equal rows of one answer are two outcomes.
            ledger.record_outcome(name, 0, {"text": "a", "label": "x"}, accepted=True)
            ledger.record_outcome(name, 1, {"text": "a", "label": "x"}, accepted=False, reason="duplicate")
    kinds = [entry["entry"] for entry in read_entries(tmp_path)]
    assert kinds == ["request", "answer", "parse", "outcome", "outcome"]


def test_of_two_fates_of_a_row_the_last_counts(tmp_path):
    with Ledger(tmp_path) as ledger:
        name = ledger.request(**REQUEST)
        ledger.record_outcome(name, 0, {"text": "a"}, accepted=True, label="x")
        ledger.record_outcome(name, 0, {"text": "a"}, accepted=False, reason="leak", label="x")
        summary = ledger.summary()
    assert (summary.num_accepted, summary.rejected, summary.num_rows) == (0, {"leak": 1}, 1)


@pytest.mark.parametrize("call", [
    lambda ledger: ledger.answer("nobody", Answer("text")),
    lambda ledger: ledger.record_outcome("nobody", 0, {}, accepted=True),
    lambda ledger: ledger.parse("nobody", "parsed", num_rows=0),
])  # fmt: skip
def test_an_entry_without_a_request_is_an_error(tmp_path, call):
    with Ledger(tmp_path) as ledger, pytest.raises(ValueError, match="no request 'nobody'"):
        call(ledger)


def test_threads_do_not_mix_their_lines(tmp_path):
    with Ledger(tmp_path) as ledger:

        def work(start):
            for seed in range(start, start + 20):
                ledger.answer(ledger.request(**{**REQUEST, "seed": seed}), Answer("x" * 5000))

        threads = [threading.Thread(target=work, args=(20 * index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.summary().answers == {"answered": 80}


@pytest.mark.parametrize(
    "content", ['{"text": "a row"}\n', '{"text": "a file of one line"}', '{"text": "a row"}\n{"text": "without end"}']
)
def test_another_file_is_not_taken_for_a_ledger_and_stays_as_it_is(tmp_path, content):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is no ledger"):
        Ledger(path)
    assert path.read_bytes() == before
    with pytest.raises(ValueError, match="is no ledger"):  # and not "another run": the lock is free again
        Ledger(path)


def test_reading_needs_no_lock_and_changes_nothing(tmp_path):
    with Ledger(tmp_path) as ledger:
        ledger.request(**REQUEST)
        with ledger.path.open("ab") as file:
            file.write(b'{"torn')
        assert len(list(read_entries(tmp_path))) == 1
        assert ledger.path.read_bytes().endswith(b'{"torn')


def test_a_missing_ledger_is_said_to_be_missing(tmp_path):
    with pytest.raises(ValueError, match=r"there is no ledger at .*ledger\.jsonl"):
        list(read_entries(tmp_path))
