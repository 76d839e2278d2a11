"""A run in stages on two processes, against one process: each stage hands over a whole student, sharded or not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .launching import launch

SCRIPT = Path(__file__).parent.parent / "drivers" / "stage_script.py"


pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process sees."""
    folder = tmp_path_factory.mktemp("one")
    launch("single", 1, SCRIPT, str(folder / "run"), "processes")
    return json.loads((folder / "rank-0.json").read_text())


@pytest.mark.parametrize("backend", ["ddp", "zero3"])
def test_two_processes_end_with_the_same_students_as_one(alone, backend, tmp_path):
    launch(backend, 2, SCRIPT, str(tmp_path / "run"), "processes")
    for rank in range(2):
        seen = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert seen["weights"] == pytest.approx(alone["weights"], rel=1e-5)
        for ours, theirs in zip(seen["metrics"], alone["metrics"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)
