from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from hf_distill.rounds.files import RoundRecord, best_of
from hf_distill.rounds.generators import ProposedRow, RoundGenerator
from hf_distill.serving.answers import Answer
from hf_distill.serving.ledger import Ledger, read_entries
from hf_distill.serving.text_teacher import TeacherUnavailable, TextTeacher

from .round_script import LABELS, STAGES, WordGenerator, WordTeacher, make_driver, make_rows

SCRIPT = Path(__file__).with_name("round_script.py")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of two rounds."""
    folder = tmp_path_factory.mktemp("rounds") / "run"
    return folder, make_driver(folder).run()


class Answers(TextTeacher):
    """Gives one answer after another."""

    model = "answers"

    def __init__(self, *answers):
        self.left = list(answers)
        self.asked = []

    def ask(self, requests, account):
        for request in requests:
            account.begin(request)
            self.asked.append(request.messages)
            answer = self.left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            account.finish(request, answer if isinstance(answer, Answer) else Answer(answer))


class RequestRunner(RoundGenerator):
    """Asks the same in every round."""

    num_rows = 4

    def propose(self, context):
        return context.ask("four rows, please", num_rows=4)


def rows_json(count, seed=5, **extra):
    return json.dumps([{**row, **extra} for row in make_rows(dict.fromkeys(LABELS, count), seed)][:4])


def test_rounds_add_the_accepted_rows_and_count_the_rejected_ones(finished):
    folder, result = finished
    assert [record.index for record in result.records] == [0, 1, 2]
    for before, after in zip(result.records, result.records[1:], strict=False):
        assert after.num_rows == before.num_rows + after.num_accepted
        assert after.num_accepted + sum(after.rejected.values()) == after.num_proposed == 14
    assert result.records[1].rejected["label"] == 2
    assert (result.stopped, result.interrupted) == ("all 2 rounds are done", False)
    rows = [json.loads(line) for line in (folder / "rounds/01/rows.jsonl").read_text().splitlines()]
    assert sum(not row["reason"] for row in rows) == result.records[1].num_accepted
    assert json.loads((folder / "rounds.json").read_text())["stopped"] == result.stopped


def test_the_student_returned_is_that_of_the_lowest_validation_loss(finished):
    folder, result = finished
    driver = make_driver(folder)
    report = driver.task.open(result.folder).report(driver.validation)
    assert report.loss == best_of(result.records).report.loss == min(r.report.loss for r in result.records)
    kept = {path.parent.name for path in (folder / "rounds").glob("*/model")}
    assert kept == {f"{index:02d}" for index in {result.best.index, 2}}
    model = AutoModelForSequenceClassification.from_pretrained(result.folder)
    assert tuple(model.config.id2label.values()) == LABELS
    assert not list(folder.rglob("*.bin")), "pickled files"


def test_every_request_and_every_row_is_in_the_ledger(finished):
    folder, result = finished
    entries = list(read_entries(folder))
    with Ledger(folder) as ledger:
        summary = ledger.summary()
    assert summary.num_requests == len((folder.with_name("run.log")).read_text().split()) == 4
    assert summary.num_accepted == sum(record.num_accepted for record in result.records)
    assert summary.num_rows == 28
    assert summary.cost == sum(record.cost or 0 for record in result.records) == 2.0
    outcomes = [entry for entry in entries if entry["entry"] == "outcome"]
    assert {outcome["reason"] for outcome in outcomes if not outcome["accepted"]} >= {"label"}


def test_a_finished_run_does_not_ask_or_train_again(finished, monkeypatch):
    folder, result = finished
    driver = make_driver(folder)
    monkeypatch.setattr(driver.task, "fit", None)
    asked = folder.with_name("run.log").read_text()
    again = driver.run()
    assert again.records == result.records
    assert folder.with_name("run.log").read_text() == asked


def test_a_folder_with_another_run_is_refused(finished):
    folder, _ = finished
    other = make_driver(folder, seed=1)
    with pytest.raises(ValueError, match="holds a run in rounds with other rows"):
        other.run()


@pytest.mark.slow
def test_a_run_killed_at_any_stage_comes_to_the_same_rounds_and_repeats_one_unanswered_request(finished, tmp_path):
    folder = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), "killed"],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    expected, found = (json.loads((path / "rounds.json").read_text()) for path in (finished[0], folder))
    # Nobody can know whether an answer that never came was paid: that one request was made again, and is counted.
    asked = folder.with_name("run.log").read_text().split()
    assert len(set(asked)) == 4
    assert sorted(asked.count(name) for name in set(asked)) == [1, 1, 1, 2], f"killed at {STAGES}"
    assert sum(record["num_requests"] for record in found["records"]) == 5
    for record in (*expected["records"], *found["records"]):
        del record["num_requests"]
    assert found == expected
    for file in ("rounds/01/rows.jsonl", "rounds/02/rows.jsonl", "model/model.safetensors"):
        assert (folder / file).read_bytes() == (finished[0] / file).read_bytes(), file
    assert not list(folder.rglob("*.partial"))


def test_a_spent_budget_keeps_what_was_paid_for(tmp_path):
    result = make_driver(tmp_path / "run", quick=True, budget={"requests": 3}).run()
    assert result.interrupted
    assert "budget of 3 in requests is spent" in result.stopped
    assert [record.num_proposed for record in result.records] == [0, 14, 7]
    assert result.folder.is_dir()
    more = make_driver(tmp_path / "run", quick=True, budget={"requests": 3}).run()
    assert (more.records, more.stopped) == (result.records, "all 2 rounds are done")


def test_a_budget_that_is_spent_before_a_round_makes_no_empty_round(tmp_path):
    result = make_driver(tmp_path / "run", quick=True, budget={"tokens": 300}).run()
    assert [record.num_proposed for record in result.records] == [0, 14]
    assert "budget of 300 in tokens is spent" in result.stopped
    assert result.folder.is_dir()


def test_a_run_whose_teacher_went_away_can_be_continued(tmp_path):
    teacher = Answers(rows_json(2), TeacherUnavailable("nobody listens"))
    result = make_driver(tmp_path / "run", quick=True, generator=RequestRunner(), teacher=teacher).run()
    assert (result.interrupted, result.stopped, len(result.records)) == (True, "nobody listens", 2)
    teacher = Answers(rows_json(2, seed=6))
    result = make_driver(tmp_path / "run", quick=True, generator=RequestRunner(), teacher=teacher).run()
    assert (result.interrupted, len(result.records), len(teacher.asked)) == (False, 3, 1)


def test_an_illegible_answer_is_asked_for_once_more(tmp_path):
    teacher = Answers("I would rather not.", rows_json(2), "no", "never")
    result = make_driver(tmp_path / "run", quick=True, generator=RequestRunner(), teacher=teacher).run()
    assert [record.num_proposed for record in result.records] == [0, 4, 0]
    assert "could not be used: it holds no JSON list" in teacher.asked[1]
    assert "I would rather not" in teacher.asked[1]
    with Ledger(tmp_path / "run") as ledger:
        assert ledger.summary().parses == {"rejected": 3, "parsed": 1}


def test_refusals_and_timeouts_are_counted_and_not_asked_again(tmp_path):
    teacher = Answers(Answer(None, status="refused", error="policy"), Answer(None, status="timed_out", error="60 s"))
    result = make_driver(tmp_path / "run", quick=True, generator=RequestRunner(), teacher=teacher).run()
    assert [record.num_proposed for record in result.records] == [0, 0, 0]
    with Ledger(tmp_path / "run") as ledger:
        summary = ledger.summary()
    assert summary.answers == {"refused": 1, "timed_out": 1}
    assert summary.parses == {"refused": 1, "timed_out": 1}
    assert [record.problems for record in result.records] == [[], ["refused: policy"], ["timed_out: 60 s"]]


def test_surplus_rows_are_left_out_and_missing_rows_are_noted(tmp_path):
    many = json.dumps(make_rows(dict.fromkeys(LABELS, 2), seed=5))
    teacher = Answers(many, json.dumps(make_rows({"animal": 1}, seed=77)))
    result = make_driver(
        tmp_path / "run", quick=True, generator=RequestRunner(), teacher=teacher, checks={"max_class_share": None}
    ).run()
    assert [record.num_accepted for record in result.records] == [0, 4, 1]
    assert result.records[1].rejected == {"surplus": 2}
    details = [entry["detail"] for entry in read_entries(tmp_path / "run") if entry["entry"] == "parse"]
    assert details == ["6 rows instead of 4", "1 rows instead of 4"]


def test_an_answer_that_ends_at_its_length_limit_loses_its_last_row(tmp_path):
    closed = Answer(rows_json(2), finish_reason="length")
    cut = Answer(rows_json(2, seed=6)[:-9], finish_reason="length")
    result = make_driver(tmp_path / "run", quick=True, generator=RequestRunner(), teacher=Answers(closed, cut)).run()
    assert [record.num_proposed for record in result.records] == [0, 3, 3]


def test_patience_counts_from_the_best_round(tmp_path, monkeypatch):
    losses = iter([1.0, 0.9, 0.95, 0.8, 0.85, 0.9, 0.7])

    class Nothing(RoundGenerator):
        needs_teacher = False

        def propose(self, context):
            return [ProposedRow({"text": f"text {'abcdefg'[context.index]}", "label": 0})]

    driver = make_driver(tmp_path / "run", quick=True, generator=Nothing(), num_rounds=9, patience=2)
    report = driver.task.open  # what is trained does not matter here
    monkeypatch.setattr(driver.task, "fit", lambda start, rows, folder, **_: folder.mkdir(parents=True))

    class Student:
        def report(self, rows):
            return dataclasses.replace(example, loss=next(losses))

    driver.task.create(tmp_path / "student", driver.rows)
    example = report(tmp_path / "student").report(driver.validation)
    monkeypatch.setattr(driver.task, "open", lambda folder: Student())
    result = driver.run()
    assert [record.report.loss for record in result.records] == [1.0, 0.9, 0.95, 0.8, 0.85, 0.9]
    assert result.best.index == 3
    assert result.stopped == "the validation loss has not fallen for 2 rounds"
    assert not any(entry["entry"] == "outcome" for entry in read_entries(tmp_path / "run"))


class Look(RoundGenerator):
    """Keeps what it is shown."""

    needs_teacher = False

    def __init__(self, error_source):
        self.error_source = error_source
        self.contexts = []

    def propose(self, context):
        self.contexts.append(context)
        self.again = context.predict([row["text"] for row in context.errors_of.rows])
        return []


@pytest.mark.parametrize("source", ["none", "train", "held_out", "out_of_fold"])
def test_errors_come_from_the_source_that_was_chosen(tmp_path, source):
    held_out = make_rows(dict.fromkeys(LABELS, 1), seed=9)
    generator = Look(source)
    driver = make_driver(
        tmp_path / "run", quick=True, generator=generator, held_out=held_out, num_rounds=1, num_folds=3
    )
    trained_on = []
    fit = driver.task.fit

    def spy(start, rows, folder, **options):
        trained_on.append((start.name, [row["text"] for row in rows], folder.name))
        fit(start, rows, folder, **options)

    driver.task.fit = spy
    driver.run()
    (context,) = generator.contexts
    shown = {"none": [], "held_out": held_out}.get(source, driver.rows)
    assert list(context.errors_of.rows) == shown
    assert len(context.errors_of.labels) == len(context.errors_of.confidences) == len(shown)
    assert all(1 / 3 <= confidence <= 1 for confidence in context.errors_of.confidences)
    validation = {row["text"] for row in driver.validation}
    assert not validation & {row["text"] for row in (*context.rows, *context.errors_of.rows)}
    folds = [rows for start, rows, name in trained_on if name.startswith("fold")]
    if source == "out_of_fold":
        texts = [row["text"] for row in driver.rows]
        assert all(start == "initial" for start, _, name in trained_on if name.startswith("fold"))
        assert sorted(text for rows in folds for text in texts if text not in rows) == sorted(texts), "each once"
        assert not list((tmp_path / "run").rglob("fold-*"))
    else:
        assert not folds
        assert list(generator.again.confidences) == pytest.approx(list(context.errors_of.confidences), abs=1e-6)


def test_a_dry_run_asks_nothing_and_does_not_change_the_run(tmp_path, finished):
    folder = tmp_path / "run"
    (prompt,) = make_driver(folder).first_prompts()
    assert prompt.startswith("round 1: ")
    assert not folder.with_name("run.log").exists()
    assert not list(read_entries(folder))
    make_driver(folder).run()
    asked = [entry["messages"] for entry in read_entries(folder) if entry["entry"] == "request"]
    assert asked[0] == prompt
    assert (folder / "model/model.safetensors").read_bytes() == (finished[0] / "model/model.safetensors").read_bytes()


def test_the_best_round_is_the_first_of_equal_ones(finished):
    record = finished[1].records[0]
    others = [dataclasses.replace(record, index=index) for index in range(3)]
    assert best_of(others).index == 0
    assert RoundRecord.from_json(json.loads(json.dumps(record.to_json()))) == record


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_rounds": -1}, "num_rounds is -1"),
        ({"patience": 0}, "patience 0"),
        ({"checks": {"nearly": 1}}, "checks has no option 'nearly'"),
        ({"generator": Look("held_out")}, "held_out is empty"),
        ({"held_out": [{"text": "a", "label": "no"}]}, "label 'no' of a row is not among"),
        ({"held_out": [{"label": "animal"}]}, "A row has the text None"),
    ],
)
def test_mistakes_are_found_before_anything_is_trained(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_driver(tmp_path / "run", quick=True, **options)
    assert not (tmp_path / "run").exists()


def test_a_generator_without_its_teacher_is_refused_when_the_driver_is_made(tmp_path):
    driver = make_driver(tmp_path / "run", quick=True)
    with pytest.raises(ValueError, match="there is none; give teacher"):
        type(driver)(driver.task, WordGenerator(), rows=driver.rows, validation=driver.validation, output_dir=tmp_path)
    assert torch.get_num_threads() >= 1
    assert WordTeacher.model == "words"
