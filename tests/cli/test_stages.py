from __future__ import annotations

import json

import pytest
import yaml
from transformers import AutoModelForCausalLM

from hf_distill.cli.main import main
from hf_distill.cli.stages import make_stages
from hf_distill.testing import tiny_model, tiny_tokenizer


def preset(rounds, *, size=1):
    return [{"name": f"stage{index}", "losses": ["task"] * size} for index in range(rounds)]


@pytest.fixture
def config(tmp_path):
    """Two stages on text: the teacher of the second is the student of the first."""
    for name, options in (("teacher", {"seed": 1}), ("student", {"num_hidden_layers": 1})):
        tiny_model("llama", **options).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    rows = [{"text": " ".join(f"w{5 + (3 * n + i) % 50}" for i in range(12))} for n in range(40)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        **{"output_dir": str(tmp_path / "out"), "student": str(tmp_path / "student"), "use_cpu": True, "max_steps": 2},
        "data": {"data_files": str(tmp_path / "text.jsonl"), "max_length": 8, "test_fraction": 0.2},
        "stages": [
            {"name": "first", "teacher": str(tmp_path / "teacher"), "losses": ["forward_kl"]},
            {"name": "second", "teacher": {"stage": "first"}, "losses": ["task", "forward_kl"], "learning_rate": 1e-3},
        ],
    }


def write(config, tmp_path):
    path = tmp_path / "stages.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def test_the_file_trains_a_student_and_keeps_a_record(config, tmp_path, capsys):
    assert main(["stages", write(config, tmp_path)]) == 0
    assert "second: 2 steps, all steps are taken." in capsys.readouterr().out
    AutoModelForCausalLM.from_pretrained(tmp_path / "out/model")
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert [stage["name"] for stage in record["stages"]] == ["first", "second"]
    assert record["stages"][1]["metrics"]["eval_forward_kl_loss"] > 0


def test_a_wrong_field_of_a_stage_is_an_error_that_suggests_the_right_field(config, tmp_path, capsys):
    config["stages"][1]["trainabel"] = ["*"]
    assert main(["stages", write(config, tmp_path)]) == 2
    assert "did you mean 'trainable'" in capsys.readouterr().err


def test_a_preset_makes_stages_and_its_wrong_options_are_refused():
    name = f"{__name__}:preset"
    assert [one["name"] for one in make_stages({"preset": name, "rounds": 2})] == ["stage0", "stage1"]
    with pytest.raises(ValueError, match=r"no option 'round' \(did you mean 'rounds'"):
        make_stages({"preset": name, "round": 2})
    with pytest.raises(ValueError, match="needs the option rounds"):
        make_stages({"preset": name})
    with pytest.raises(ValueError, match="There is no preset 'nowhere:at_all'"):
        make_stages({"preset": "nowhere:at_all"})
    with pytest.raises(ValueError, match="expected a list of stages"):
        make_stages("ernie")
