"""Every code block of the README runs, as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import yaml
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationTrainer
from hf_distill.cli.main import main
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

from ..distributed.launching import launch

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), flags=re.MULTILINE | re.DOTALL)


# The README's trainings on a little of their data.
LESS = [
    "--max_steps",
    "2",
    "--data",
    '{"texts": {"share": 0.1, "probe_fraction": 0.3}, "max_length": 64, "test_rows": 2, "probe_rows": 2}',
]


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A user's folder, with the models that the README speaks of."""
    for name, options in (("student", {"hidden_size": 16}), ("teacher", {"seed": 1})):
        tiny_model("llama", max_position_embeddings=512, **options).save_pretrained(tmp_path / "path" / "to" / name)
        tiny_tokenizer().save_pretrained(tmp_path / "path" / "to" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names():
    collator = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)
    return {"train_data": causal_lm_dataset(16), "eval_data": causal_lm_dataset(8, seed=1), "collator": collator}


def test_all_blocks_are_of_the_kinds_that_are_tested():
    assert {language for language, _ in BLOCKS} == {"console", "diff", "python", "yaml", "toml"}
    assert len(blocks("python")) == 2


@pytest.mark.parametrize("side", ["-", "+"])
def test_drop_in_diff_runs_before_and_after_the_change(side, folder):
    (diff,) = blocks("diff")
    kept = [line[1:] for line in diff.splitlines() if line[:1] in (" ", side)]
    namespace = names()
    exec("\n".join(kept), namespace)
    trainer = namespace["trainer"]
    assert trainer.state.global_step == 2
    assert isinstance(trainer, DistillationTrainer) == (side == "+")


def test_chosen_losses_run(folder):
    namespace = names()
    exec(blocks("python")[0], namespace)
    assert namespace["trainer"].state.global_step == 2


def test_smallest_plugin_works_installed_and_as_a_file(install, folder):
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 has no reader of TOML")
    project = tomllib.loads(blocks("toml")[0])["project"]
    module, source = re.match(r"# (\w+\.py)\n(.*)", blocks("python")[1], flags=re.DOTALL).groups()
    install(project["name"], project["version"], project["entry-points"]["hf_distill"], {module: source})
    (folder / module).write_text(source)
    figures = []
    for plugin in ("tvd", module):
        trainer = DistillationTrainer(
            tiny_model("llama"),
            teacher="path/to/teacher",
            plugins=[plugin],
            losses=["task", "tvd", "total_variation"],
            train_dataset=names()["train_data"],
            eval_dataset=names()["eval_data"],
            data_collator=names()["collator"],
        )
        metrics = trainer.evaluate()
        assert metrics["eval_tvd_loss"] == pytest.approx(metrics["eval_total_variation_loss"], rel=1e-5)
        figures.append(metrics["eval_loss"])
    assert figures[0] == figures[1]


def test_configuration_file_runs(folder):
    Path("config.yaml").write_text(blocks("yaml")[0])
    assert main(["train", "config.yaml", *LESS]) == 0
    assert (folder / "out" / "model.safetensors").is_file()


def test_training_from_a_cache_does_not_need_the_teacher(folder):
    whole, teacher = map(yaml.safe_load, blocks("yaml")[:2])
    Path("config.yaml").write_text(yaml.safe_dump({**whole, **teacher, "student": "path/to/student"}))
    lines = [shlex.split(line, comments=True)[2:] for block in blocks("console") for line in block.splitlines()]
    for command in (line for line in lines if line and line[0] in ("capture", "train", "cache")):
        if command[0] == "train":
            (folder / "path" / "to" / "teacher").rename(folder / "elsewhere")
        assert main([*command, *(LESS if "config.yaml" in command else [])]) == 0
    assert (folder / "out" / "model.safetensors").is_file()


def test_rounds_can_be_planned_from_a_table(folder, capsys, monkeypatch):
    monkeypatch.setenv("MY_KEY", "unsaid")
    words = [f"{word}{n}" for word in ("card", "loan") for n in range(40)]
    rows = [f"{word} {word[:4]} w{n % 9},{word[:4]}" for n, word in enumerate(words)]
    Path("tickets.csv").write_text("\n".join(["text,label", *rows]))
    tiny_model("bert_classifier").save_pretrained("path/to/encoder")  # of three classes, not two
    tiny_tokenizer().save_pretrained("path/to/encoder")
    config = yaml.safe_load(blocks("yaml")[2])
    config["data"]["max_length"] = 16
    config["training"] = {"num_train_epochs": 1, "use_cpu": True, "report_to": "none"}
    Path("tickets.yaml").write_text(yaml.safe_dump(config))
    commands = [shlex.split(line, comments=True)[2:] for block in blocks("console") for line in block.splitlines()]
    (command,) = [line for line in commands if line[:1] == ["rounds"] and "--dry-run" in line]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Validation report" in printed
    assert "unsaid" not in printed


def test_students_can_be_built_from_a_shell(folder, capsys):
    commands = [shlex.split(line, comments=True)[2:] for block in blocks("console") for line in block.splitlines()]
    for command in (line for line in commands if line[:1] == ["student"]):
        assert main([*command, *(["--repeats", "1"] if "describe" in command else [])]) == 0
    assert "FLOPs per token" in capsys.readouterr().out
    assert (folder / "small" / "model.safetensors").is_file()


def test_every_make_command_has_a_target():
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    commands = [shlex.split(line, comments=True)[1:] for block in blocks("console") for line in block.splitlines()]
    for command in commands:
        if command[0] == "make":
            assert command[1] in targets


@pytest.mark.distributed
def test_launch_line_runs(folder):
    lines = [line for block in blocks("console") for line in block.splitlines()]
    (line,) = [line for line in lines if "accelerate launch" in line]
    config, script, *words = shlex.split(line.removeprefix("$ accelerate launch --config_file "))
    assert (ROOT / config).is_file()
    torch.manual_seed(0)
    launch("ddp", 2, ROOT / script, *words, "--max_steps", "2", "--use_cpu", "true")
    assert (folder / "out" / "model.safetensors").is_file()
