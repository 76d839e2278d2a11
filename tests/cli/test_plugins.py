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
def _installed(install, monkeypatch):
    install("hf-distill-active", "1.2", {"active": "active_plugin"}, {"active_plugin.py": SOURCE})
    install("hf-distill-idle", "0.3", {"idle": "idle_plugin"}, {"idle_plugin.py": "1 / 0"})
    monkeypatch.setenv("HF_DISTILL_PLUGINS", "active")


def test_the_json_tells_active_from_installed_without_importing_the_latter(capsys):
    assert plugins(["--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["plugins"]}
    assert listed["active"] == {
        "name": "active",
        "distribution": "hf-distill-active",
        "version": "1.2",
        "active": True,
        "components": {"losses": ["scaled"]},
    }
    assert listed["idle"] == {
        "name": "idle",
        "distribution": "hf-distill-idle",
        "version": "0.3",
        "active": False,
        "components": {},
    }
    assert listed["hf_distill"]["version"] == hf_distill.__version__
    assert "forward_kl" in listed["hf_distill"]["components"]["losses"]
    assert list(listed) == sorted(listed)
    assert "idle_plugin" not in sys.modules


def test_the_table_shows_every_plugin_and_component(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert plugins([]) == 0
    rows = {line.split("│")[1].strip(): line for line in capsys.readouterr().out.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows["active"].split("│")[1:-1]] == [
        "active",
        "hf-distill-active",
        "1.2",
        "yes",
        "losses: scaled",
    ]
    assert rows["idle"].split("│")[4].strip() == "no"


def test_a_component_is_shown_with_its_options(capsys):
    assert plugins(["scaled"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "loss scaled, of active (hf-distill-active 1.2)",
        "  Scale the difference.",
        "  by: 2.0",
        "  offset: required",
    ]
    assert plugins(["scaled", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["options"] == {"by": "2.0", "offset": "required"}


def test_an_unknown_component_is_an_error():
    with pytest.raises(ValueError, match="'scald'"):
        plugins(["scald"])
