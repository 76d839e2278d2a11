from __future__ import annotations

import json

import pytest

from hf_distill import Answer, Ledger, Usage
from hf_distill.cli.main import main


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "150")
    with Ledger(tmp_path) as ledger:
        for seed, label in enumerate(["card [lost]", "top_up"]):
            name = ledger.request(model="m", messages="p", seed=seed, purpose=f"round {seed}")
            ledger.answer(name, Answer("[]", usage=Usage(10, 20, 0.25 if seed else None)))
            ledger.parse(name, "parsed", num_rows=2)
            ledger.record_outcome(name, 0, {"text": f"naïve\n{label} text", "label": label}, accepted=True)
            ledger.record_outcome(
                name, 1, {"text": "copy", "label": label}, accepted=False, reason="duplicate of train"
            )
        ledger.request(model="m", messages="p", seed=9)
    return tmp_path


def test_the_tables_show_cost_answers_fates_and_examples(folder, capsys):
    assert main(["ledger", "show", str(folder)]) == 0
    rows = [
        [cell.strip() for cell in line.strip("│┃ \n").replace("┃", "│").split("│")]
        for line in capsys.readouterr().out.splitlines()
    ]
    for row in (
        ["3", "3", "20", "40", "0.25 + 1 answers of unknown cost"],
        ["answered", "2"],
        ["unanswered", "1"],
        ["parsed", "2"],
        ["accepted", "2"],
        ["rejected: duplicate of train", "2"],
        ["card [lost]", "1", "1", "naïve card [lost] text"],
        ["top_up", "1", "1", "naïve top_up text"],
    ):
        assert row in rows


def test_json_has_the_same_sums_and_nothing_else_is_printed(folder, capsys):
    assert main(["ledger", "show", str(folder / "ledger.jsonl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["cost"], found["num_unknown_cost"], found["num_rows"], found["num_accepted"]) == (0.25, 1, 4, 2)
    assert found["answers"] == {"answered": 2, "unanswered": 1}
    assert found["rejected"] == {"duplicate of train": 2}
    assert found["classes"]["top_up"] == {
        **{"accepted": 1, "rejected": 1},
        "examples": [{"text": "naïve\ntop_up text", "label": "top_up"}],
    }


def test_one_purpose_can_be_shown(folder, capsys):
    assert main(["ledger", "show", str(folder), "--purpose", "round 1", "--json"]) == 0
    assert list(json.loads(capsys.readouterr().out)["classes"]) == ["top_up"]


def test_it_can_be_read_while_a_run_writes(folder, capsys):
    with Ledger(folder):
        assert main(["ledger", "show", str(folder), "--json"]) == 0


def test_a_missing_ledger_is_an_error_with_status_2(tmp_path, capsys):
    assert main(["ledger", "show", str(tmp_path)]) == 2
    assert "there is no ledger at" in capsys.readouterr().err
