from __future__ import annotations

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill import Plugins, transform
from hf_distill.cli.main import main
from hf_distill.cli.student import student
from hf_distill.testing import tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    tiny_model("llama", num_hidden_layers=4).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return str(folder)


def test_a_built_student_loads_with_its_tokenizer_and_says_what_it_was_made_from(teacher, tmp_path, capsys):
    assert student(["build", teacher, str(tmp_path / "student"), "-o", "layers=[1, 3]"]) == 0
    assert "saved a student" in capsys.readouterr().out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student")
    assert model.config.hf_distill["layer_map"] == [1, 3]
    assert AutoTokenizer.from_pretrained(tmp_path / "student").get_vocab() == tiny_tokenizer().get_vocab()
    record = json.loads((tmp_path / "student" / "student_build.json").read_text())
    assert record["teacher"]["name"] == teacher
    assert record["mapping"]["model.layers.0.mlp.up_proj.weight"] == {
        "operator": "copy",
        "tensors": ["model.layers.1.mlp.up_proj.weight"],
        "part": "",
    }


def test_the_list_has_builders_with_their_options_and_summaries(capsys):
    assert student(["list", "--json"]) == 0
    listed = {(one["kind"], one["name"]): one for one in json.loads(capsys.readouterr().out)}
    assert listed["builder", "layer_drop"]["options"]["strategy"] == "'uniform'"
    assert listed["builder", "fresh"]["summary"] == "A new model of the teacher's class."
    assert student(["list"]) == 0
    assert "layer_drop" in capsys.readouterr().out


def test_a_description_has_the_teacher_what_would_be_built_and_what_was_built(teacher, tmp_path, capsys):
    assert student(["build", teacher, str(tmp_path / "half"), "-o", "layers=2"]) == 0
    capsys.readouterr()
    command = ["describe", teacher, "--builder", "fresh", "-o", "size=tiny", "-o", "hidden_size=16"]
    assert main(["student", *command, "--no-measure"]) == 2
    assert "size='tiny' already says hidden_size" in " ".join(capsys.readouterr().err.split())
    command = ["describe", teacher, "--builder", "fresh", "-o", "hidden_size=16", "--student", str(tmp_path / "half")]
    assert student([*command, "--no-measure", "--json", "--length", "16"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert list(costs) == [teacher, "fresh hidden_size=16", str(tmp_path / "half")]
    assert costs[str(tmp_path / "half")]["flops_per_token"] < costs[teacher]["flops_per_token"]
    assert costs[teacher]["latency"] is None
    assert student(["describe", teacher, "--length", "16", "--batch-size", "2", "--repeats", "1"]) == 0
    shown = capsys.readouterr().out
    assert "layer_drop" in shown
    assert "times as fast" in shown
    assert "medians on this machine" in shown


def test_a_transformed_student_is_described_with_the_plugin_that_is_named(
    teacher, install, tmp_path, capsys, monkeypatch
):
    source = """
import hf_distill
from torch import nn

@hf_distill.hookimpl
def register_students(register):
    register("shallow", shallow, kind="transform")

def shallow(model):
    model.model.layers[0].mlp = nn.Identity()
"""
    install("hf-distill-toys", "0.1", {"toys": "toys_of_students"}, {"toys_of_students.py": source})
    model = tiny_model("llama", num_hidden_layers=4)
    transform(model, "shallow", plugins=Plugins(["toys"]))
    model.save_pretrained(tmp_path / "changed")
    command = ["describe", teacher, "--student", str(tmp_path / "changed"), "--json", "--length", "8"]
    with pytest.raises(ValueError, match=r"transform 'shallow' of toys .*plugins=\['toys'\]"):
        student([*command, "--repeats", "1", "--batch-size", "1"])
    monkeypatch.setenv("HF_DISTILL_PLUGINS", "toys")
    assert student([*command, "--repeats", "1", "--batch-size", "1"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs[str(tmp_path / "changed")]["parameters"] == costs[teacher]["parameters"] - 3 * 32 * 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build", "{teacher}", "{teacher}"], "is not empty; give a folder"),
        (["build", "{teacher}", "{output}", "-o", "layers=9"], "the teacher has 4, so 1 to 4 can stay"),
        (["build", "{teacher}", "{output}", "-o", "layers"], "The option 'layers' is not NAME=VALUE"),
        (["build", "{teacher}", "{output}", "--builder", "layer_dorp"], "did you mean 'layer_drop'"),
        (["describe", "{teacher}", "--student", "{teacher}", "-o", "layers=1"], "name one with --builder"),
        (["describe", "{teacher}", "--no-measure", "--length", "999"], "has 64 positions"),
    ],
)
def test_what_cannot_be_built_or_described_is_an_error_that_says_why(arguments, message, teacher, tmp_path, capsys):
    filled = [argument.format(teacher=teacher, output=tmp_path / "output") for argument in arguments]
    assert main(["student", *filled]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "output").exists()
