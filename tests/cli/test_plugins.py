from __future__ import annotations

import json
import sys

import pytest

import hf_distill
from hf_distill.cli.plugins import plugins

SOURCE = '''
import hf_distill


@hf_distill.hookimpl
def register_losses(register):
    register("scaled", scaled)


def scaled(student_logits, teacher_logits, *, by=2.0, offset):
    """Scale the difference.

    More words.
    """
'''


@pytest.fixture(autouse=True)
def _installed(install):
    install("hf-distill-toys", "1.2", {"toys": "toys_plugin"}, {"toys_plugin.py": SOURCE})
    install("hf-distill-broken", "0.3", {"broken": "broken_plugin"}, {"broken_plugin.py": "1 / 0"})


def test_the_json_lists_what_every_installed_plugin_has(capsys):
    assert plugins(["--json"]) == 0
    output = capsys.readouterr()
    listed = {entry["name"]: entry for entry in json.loads(output.out)["plugins"]}
    assert listed["toys"] == {
        "name": "toys",
        "distribution": "hf-distill-toys",
        "version": "1.2",
        "components": {"losses": ["scaled"]},
    }
    assert listed["broken"]["components"] == {}
    assert "broken (hf-distill-broken 0.3) cannot be imported: ZeroDivisionError" in output.err
    assert listed["hf_distill"]["version"] == hf_distill.__version__
    assert "forward_kl" in listed["hf_distill"]["components"]["losses"]
    assert list(listed) == sorted(listed)


def test_piped_there_is_one_component_a_line(capsys):
    assert plugins([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "losses\tloss\tscaled\ttoys (hf-distill-toys 1.2)" in lines
    assert "teachers\ttext\tendpoint" in "".join(lines)
    assert all(line.count("\t") == 3 for line in lines)


def test_the_table_shows_every_plugin_and_component(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert plugins([]) == 0
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows["toys"].split("│")[1:-1]] == [
        "toys",
        "hf-distill-toys",
        "1.2",
        "losses: scaled",
    ]


def test_a_component_is_shown_with_its_options(capsys):
    assert plugins(["scaled"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "loss scaled, of toys (hf-distill-toys 1.2)",
        "  Scale the difference.",
        "  by: 2.0",
        "  offset: required",
    ]
    assert plugins(["scaled", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["options"] == {"by": "2.0", "offset": "required"}


def test_an_unknown_component_is_an_error():
    with pytest.raises(ValueError, match="'scald'"):
        plugins(["scald"])
