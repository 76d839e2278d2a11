"""Whole runs on two processes: against one process, sharded teachers, and a kill in the middle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .launching import launch

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("long_run.py")


def run(backend, processes, folder, name, *arguments, check=True):
    folder.mkdir(exist_ok=True)
    report = folder / f"{name}.json"
    # The same examples a step, however many processes share them.
    arguments = [*arguments, "--output", str(folder / "run"), "--report", str(report)]
    done = launch(backend, processes, SCRIPT, *arguments, "--micro-batch", str(4 // processes), check=check)
    return json.loads(report.read_text()) if done.returncode == 0 else done


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process sees."""
    return run("single", 1, tmp_path_factory.mktemp("alone"), "whole")


@pytest.mark.parametrize("backend", ["ddp", "zero2", "zero3"])
def test_a_run_on_two_processes_equals_a_run_on_one_and_can_be_resumed(alone, backend, tmp_path):
    whole = run(backend, 2, tmp_path, "whole")
    for ours, theirs in zip(whole["logs"], alone["logs"], strict=True):
        assert ours == pytest.approx(theirs, rel=2e-4)
    assert whole["metrics"] == pytest.approx(alone["metrics"], rel=2e-4)
    if backend == "zero3":
        assert whole["largest_share"] < 0.5  # never the whole teacher on one process
    killed = run(backend, 2, tmp_path / "again", "killed", "--kill-at", "5", check=False)
    assert killed.returncode != 0
    resumed = run(backend, 2, tmp_path / "again", "resumed", "--resume")
    assert [entry["step"] for entry in resumed["logs"]] == list(range(1, 9))
    for ours, theirs in zip(resumed["logs"], whole["logs"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6)
