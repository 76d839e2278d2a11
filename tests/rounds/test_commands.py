from __future__ import annotations

import json

import pytest
import yaml

from hf_distill.cli.main import main
from hf_distill.rounds.commands import RoundsConfig

PLUGIN = '''
"""A generator and its teacher, in a local file."""
import json
import hf_distill


@hf_distill.hookimpl
def register_generators(register):
    register("worst", Worst, kind="round")


@hf_distill.hookimpl
def register_teachers(register):
    register("parrot", Parrot, kind="text")


class Worst(hf_distill.RoundGenerator):
    num_rows = 4

    def propose(self, context):
        return context.ask(f"[round {context.index}] four texts of {context.report.worst(1)}", num_rows=4)


class Parrot(hf_distill.TextTeacher):
    model = "parrot"

    def __init__(self, prompt_price=1.0, completion_price=2.0, api_key=None):
        pass

    def ask(self, requests, account):
        for request in requests:
            account.begin(request)
            words = ["alpha", "beta", "gamma", "delta"]
            rows = [{"text": f"{word} {words[request.seed % 4]}", "label": n % 3} for n, word in enumerate(words)]
            account.finish(request, hf_distill.Answer(json.dumps(rows), usage=hf_distill.Usage(10, 20, 0.25)))
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "plugin.py").write_text(PLUGIN)
    rows = [f"{word} {number},{label}" for number in range(20) for word, label in (("red", "warm"), ("blue", "cold"))]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return {
        "output_dir": str(tmp_path / "out"),
        "plugins": [str(tmp_path / "plugin.py")],
        "data": {"task": "labelled", "data_files": str(tmp_path / "rows.csv"), "test_fraction": 0.2, "max_length": 8}
        | {"labels": ["cold", "warm", "never"]},
        "student": {"fresh": {"hidden_size": 8, "vocab_size": 280}},
        "generator": "worst",
        "teacher": {"kind": "parrot", "api_key": "s3cret"},
        "num_rounds": 2,
        "early_stopping": None,
        "training": {"num_train_epochs": 1, "use_cpu": True, "dataloader_pin_memory": False},
    }


def run(config, tmp_path, *arguments):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return main(["rounds", str(path), *arguments])


def test_a_table_of_texts_becomes_a_classifier_and_a_record_of_its_rounds(config, tmp_path, capsys):
    assert run(config, tmp_path) == 0
    output = capsys.readouterr().out
    assert "data: 24 rows in 3 classes to begin with, 8 to validate with, 8 to test with" in output
    lines = [line for line in output.splitlines() if line.startswith("round ")]
    assert len(lines) == 3
    assert "(+4 of 4)" in lines[1]
    assert "requests 1, tokens 30, cost 0.25" in lines[1]
    assert "near_duplicate" in lines[2], "the second answer has a text of the first with its words swapped"
    assert "stopped: all 2 rounds are done" in output
    assert "test: accuracy" in output
    assert f"is in {tmp_path / 'out' / 'model'}" in output.replace("\n", "")
    assert (tmp_path / "out" / "model" / "config.json").is_file()
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert [one["num_requests"] for one in record["rounds"]] == [0, 1, 1]
    assert record["test"]["classes"].keys() == {"cold", "warm", "never"}
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()]


def test_a_dry_run_asks_nothing_and_shows_the_prompt_and_the_cost(config, tmp_path, capsys):
    config["teacher"] |= {"prompt_price": 1000.0, "completion_price": 1000.0}
    assert run(config, tmp_path, "--dry-run") == 0
    output = capsys.readouterr().out
    assert "[round 1] four texts of ['" in output, "square brackets are no mark-up"
    assert "Nothing was asked." in output
    assert "about 0." in " ".join(output.split())
    assert (tmp_path / "out" / "ledger.jsonl").read_text() == ""
    assert run(config, tmp_path) == 0


def test_a_spent_budget_gives_status_1_and_says_how_the_run_goes_on(config, tmp_path, capsys):
    config["budget"] = {"requests": 1}
    assert run(config, tmp_path, "--output-dir", str(tmp_path / "elsewhere")) == 1
    output = capsys.readouterr().out
    assert "The budget of 1 in requests is spent" in output
    assert "start the run again" in output
    assert (tmp_path / "elsewhere" / "model").is_dir()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generater": "worst"}, "unknown key 'generater' (did you mean 'generator'?)"),
        ({"generator": "wrst"}, "no round generator 'wrst' (did you mean 'worst'?)"),
        ({"generator": {"num": 3}}, "expected {name: pgkd, ...}"),
        ({"teacher": None}, "The generator asks a text teacher, and there is none"),
        ({"budget": {"requests": -1}}, "requests is -1"),
        ({"training": {"seed": 3}}, "training sets seed"),
        ({"training": {"learning_rat": 3}}, "training has no field 'learning_rat' (did you mean 'learning_rate'?)"),
        ({"student": {"hidden_size": 3}}, "expected a folder"),
    ],
)
def test_mistakes_in_the_file_are_said_in_one_line(config, tmp_path, capsys, change, message):
    assert run({**config, **change}, tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_missing_keys_are_an_error():
    with pytest.raises(ValueError, match="the configuration has no data"):
        RoundsConfig.parse({"output_dir": "x"})
