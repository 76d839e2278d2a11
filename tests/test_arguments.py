"""`DistillationArguments` from Python, YAML and the command line; no option without an effect."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from transformers import HfArgumentParser, TrainingArguments

import hf_distill
from hf_distill import DistillationArguments

NESTED = {
    "teacher": {"model": "big", "dtype": "bfloat16"},
    "losses": [{"name": "task"}, {"name": "jsd", "beta": 0.3, "weight": {"start": 1.0, "end": 0.0}}],
    "selector": {"name": "mixture", "weights": "uniform"},
    "student": {"builder": "layer_drop", "layers": 2},
    "plugins": ["ddk", "mine.py"],
}


def parse(*words, folder):
    (arguments,) = HfArgumentParser(DistillationArguments).parse_args_into_dataclasses(
        ["--output_dir", str(folder), "--use_cpu", "true", *words]
    )
    return arguments


def own_fields():
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    return [field.name for field in dataclasses.fields(DistillationArguments) if field.name not in inherited]


def test_command_line_reads_nested_arguments_as_yaml_does(tmp_path):
    import json

    words = [word for name, value in NESTED.items() for word in (f"--{name}", json.dumps(value))]
    from_words = parse(*words, folder=tmp_path)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"output_dir": str(tmp_path), "use_cpu": True, **NESTED}))
    (from_yaml,) = HfArgumentParser(DistillationArguments).parse_yaml_file(file)
    for name, value in NESTED.items():
        assert getattr(from_words, name) == value == getattr(from_yaml, name)


def test_plain_names_on_the_command_line_need_no_json(tmp_path):
    found = parse("--teacher", "big", "--losses", "forward_kl", "--plugins", "ddk, mine.py", folder=tmp_path)
    assert (found.teacher, found.losses, found.plugins) == ("big", ["forward_kl"], ["ddk", "mine.py"])


def test_broken_json_on_the_command_line_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="losses is not valid JSON"):
        parse("--losses", "[{name: task}]", folder=tmp_path)


@pytest.mark.parametrize("name", own_fields())
def test_every_option_has_help_and_is_used_in_the_code(name):
    field = DistillationArguments.__dataclass_fields__[name]
    assert field.metadata["help"]
    package = Path(hf_distill.__file__).parent
    code = "".join(path.read_text() for path in package.rglob("*.py") if path.name != "arguments.py")
    assert re.search(rf'(args\.{name}\b|"{name}")', code)
