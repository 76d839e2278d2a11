"""``hf-distill train``: a YAML file, overrides on the command line, what it leaves behind, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from hf_distill.cli.main import main
from hf_distill.drivers.config_file import read_config, without_secrets
from hf_distill.drivers.training import parse, run
from hf_distill.testing import tiny_model, tiny_tokenizer

SELECTOR = '''
import hf_distill

class Backwards(hf_distill.MixtureSelector):
    """Draws what there is most of."""

    def start(self, probe):
        self.weights = [domain == "often" for domain in self.domains]

@hf_distill.hookimpl
def register_selectors(register):
    register("backwards", Backwards)
'''


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A file that trains two steps on local text; the teacher is a folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = tiny_tokenizer()
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    words = sorted(tokenizer.get_vocab())
    rows = [{"text": " ".join(words[n % 7 :]), "domain": "often" if n % 3 else "seldom"} for n in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "output_dir": str(tmp_path / "out"),
        "teacher": str(tmp_path / "teacher"),
        "student": {"builder": "layer_drop", "layers": 1},
        "losses": [{"name": "task", "weight": 1.0}, {"name": "forward_kl", "weight": 0.2}],
        "data": {"data_files": str(tmp_path / "text.jsonl"), "max_length": 16, "test_fraction": 0.3},
        "max_steps": 2,
        "logging_steps": 1,
        "learning_rate": "1e-3",  # YAML 1.1 reads 1e-3 as text
        "per_device_train_batch_size": 4,
    }
    path = tmp_path / "config.yaml"

    def write(**changes):
        merged = {**values, **changes}
        path.write_text(yaml.safe_dump({name: value for name, value in merged.items() if value is not None}))
        return str(path)

    return write


def test_a_file_trains_a_student_that_loads_and_leaves_a_record(config, tmp_path, capsys):
    assert main(["train", config()]) == 0
    out = tmp_path / "out"
    student = AutoModelForCausalLM.from_pretrained(out)
    assert student.config.num_hidden_layers == 1
    assert AutoTokenizer.from_pretrained(out).get_vocab() == tiny_tokenizer().get_vocab()
    record = json.loads((out / "run.json").read_text())
    assert record["config"]["losses"][1] == {"name": "forward_kl", "weight": 0.2}
    assert record["plugins"].keys() == {"hf_distill"}
    assert record["num_parameters"] == student.num_parameters()
    losses = [entry for entry in record["log_history"] if "forward_kl_loss" in entry]
    assert len(losses) == 2
    for entry in losses:
        assert entry["loss"] == pytest.approx(entry["task_loss"] + 0.2 * entry["forward_kl_loss"], rel=1e-4)
    for domain in ("often", "seldom"):  # each domain of the test split by itself
        assert record["metrics"][f"eval_{domain}_perplexity"] > 1
    printed = capsys.readouterr().out
    assert "to train on (often" in printed
    assert "forward_kl" in printed
    assert f"run.json in {out}" in printed


PRESET = """
from transformers import DataCollatorForSeq2Seq
from hf_distill import TrainingData
from hf_distill.testing import causal_lm_dataset

def short(tokenizer, *, rows):
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
    lengths = lambda prediction: {"examples": len(prediction.label_ids)}
    return TrainingData(causal_lm_dataset(rows), causal_lm_dataset(3), collator=collator, compute_metrics=lengths)

def nothing(tokenizer):
    return []
"""


def test_data_that_a_preset_makes_is_not_taken_for_text(config, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_data.py").write_text(PRESET)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["train", config(data={"preset": "own_data:short", "rows": 8})]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["metrics"]["eval_examples"] == 3
    assert record["domains"] == {}
    printed = capsys.readouterr().out
    assert "data: 8 rows of " in printed
    assert "test: " in printed
    assert "examples 3" in printed


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"preset": "own_data:missing"}, "There is no preset 'own_data:missing'"),
        ({"preset": "own_data:short", "row": 8}, "no option 'row' (did you mean 'rows'?)"),
        ({"preset": "own_data:short"}, "needs the option rows"),
        ({"preset": "own_data:nothing"}, "made list; expected hf_distill.TrainingData"),
    ],
)
def test_a_preset_that_does_not_fit_is_an_error_that_says_why(config, tmp_path, monkeypatch, capsys, data, says):
    (tmp_path / "own_data.py").write_text(PRESET)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["train", config(data=data)]) == 2
    assert says in capsys.readouterr().err


def test_the_command_line_goes_before_the_file(config):
    arguments, data, tokenizer = parse(
        read_config(config(tokenizer="from-the-file")),
        [
            *("--max_steps", "7", "--learning_rate=0.5", "--tokenizer", "other"),
            *("--losses", '[{"name": "jsd", "beta": 0.3}]', "--data", '{"texts": "python"}'),
        ],
    )
    assert arguments.max_steps == 7
    assert arguments.learning_rate == 0.5
    assert arguments.losses == [{"name": "jsd", "beta": 0.3}]
    assert arguments.per_device_train_batch_size == 4
    assert (data, tokenizer) == ({"texts": "python"}, "other")


def test_numbers_that_yaml_reads_as_text_are_numbers(config):
    assert parse(read_config(config()))[0].learning_rate == 1e-3


def test_a_local_plugin_chooses_the_data(config, tmp_path):
    (tmp_path / "backwards.py").write_text(SELECTOR)
    path = config(plugins=[str(tmp_path / "backwards.py")], selector={"name": "backwards"})
    assert main(["train", path]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["log_history"][0]["mixture/often"] == 1
    assert len(record["plugins"]) == 2


def test_a_resumed_run_ends_like_one_that_was_not_interrupted(config, tmp_path):
    def losses(out):
        log = json.loads((tmp_path / out / "run.json").read_text())["log_history"]
        return [entry["loss"] for entry in log if "loss" in entry]

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 3

    path = config(max_steps=6, save_steps=3, save_strategy="steps", logging_steps=1)
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    assert main(["train", path, "--output_dir", whole]) == 0
    run(read_config(path), overrides=["--output_dir", parts], callbacks=[Stop()])
    assert main(["train", path, "--output_dir", parts, "--resume"]) == 0
    assert len(losses("whole")) == 6
    assert losses("parts") == pytest.approx(losses("whole"), rel=1e-6)


def test_an_interrupted_run_says_how_it_goes_on(config, capsys):
    class Interrupt(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 2:
                raise KeyboardInterrupt

    path = config(max_steps=3, save_steps=1, save_strategy="steps")
    with pytest.raises(KeyboardInterrupt):
        run(read_config(path), console=Console(), callbacks=[Interrupt()])
    assert "goes on with --resume" in capsys.readouterr().out


def test_a_resume_without_a_checkpoint_is_an_error(config, capsys):
    assert main(["train", config(), "--resume"]) == 2
    assert "no complete checkpoint to resume from" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({"max_stpes": 3}, [], "unknown key 'max_stpes' (did you mean 'max_steps'?)"),
        ({}, ["--max_stpes", "3"], "unknown option '--max_stpes' (did you mean 'max_steps'?)"),
        ({}, ["--max_steps", "many"], "invalid int value: 'many'"),
        ({}, ["--losses", "[1"], "losses is not valid JSON"),
        ({"output_dir": None}, [], "output_dir is missing"),
        ({"student": None}, [], "student is missing"),
        ({"data": None}, [], "data is None; expected a mapping"),
        ({"data": {"texts": "python", "max_lenght": 8}}, [], "no option 'max_lenght' (did you mean 'max_length'?)"),
        ({"losses": ["forward_lk"]}, [], "did you mean 'forward_kl'"),
        ({"teacher": "path/to/nothing"}, [], "There is no folder 'path/to/nothing'"),
        ({"teacher": None}, [], "say tokenizer: path"),
        ({"plugins": ["dkk"]}, [], "there is no plugin 'dkk'"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(config, capsys, changes, overrides, message):
    assert main(["train", config(**changes), *overrides]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_a_file_that_is_absent_or_not_a_yaml_mapping_is_an_error_that_says_so(tmp_path, capsys):
    (tmp_path / "broken.yaml").write_text("losses: [")
    (tmp_path / "list.yaml").write_text("- 1")
    for name, message in [("absent", "There is no file"), ("broken", "not valid YAML"), ("list", "holds list")]:
        assert main(["train", str(tmp_path / f"{name}.yaml")]) == 2
        assert message in capsys.readouterr().err


def test_a_missing_column_is_named_with_those_there_are(config, tmp_path, capsys):
    data = {"data_files": str(tmp_path / "text.jsonl"), "text_column": "body"}
    assert main(["train", config(data=data)]) == 2
    assert "no column 'body'; it has text, domain" in capsys.readouterr().err


def test_secrets_are_left_out_of_the_record():
    config = {"hub_token": "s3cret", "teacher": {"model": "m", "api_key": "s3cret"}, "losses": [{"name": "task"}]}
    words = ["--hub_token", "s3cret", "--hub_token=s3cret", "--teacher", '{"api_key": "s3cret"}', "--max_steps", "3"]
    for given in (config, words):
        assert "s3cret" not in json.dumps(without_secrets(given))
    assert without_secrets(config)["losses"] == config["losses"]
    assert without_secrets(words)[-2:] == ["--max_steps", "3"]
    assert without_secrets({"include_num_input_tokens_seen": "all"}) == {"include_num_input_tokens_seen": "all"}


@pytest.mark.distributed
def test_two_processes_under_accelerate_train_one_student_and_end_well(config, tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["-m", "hf_distill.cli", "train", config(), "--use_cpu", "true"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["processes"] == 2
    assert done.stdout.count("saved student") == done.stdout.count("to train on") == 1
    AutoModelForCausalLM.from_pretrained(tmp_path / "out")
