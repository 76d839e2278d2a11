"""A run in stages on two processes under DDP, against one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .launching import launch

SCRIPT = Path(__file__).parent.parent / "drivers" / "stage_script.py"


@pytest.mark.distributed
def test_two_processes_end_with_other_students_than_one(tmp_path):
    (tmp_path / "one").mkdir()
    alone = tmp_path / "one" / "run"
    launch("single", 1, SCRIPT, str(alone), "processes")
    launch("ddp", 2, SCRIPT, str(tmp_path / "run"), "processes")
    one = json.loads((tmp_path / "one/rank-0.json").read_text())
    for rank in range(2):
        seen = json.loads((tmp_path / f"rank-{rank}.json").read_text())
        assert seen["weights"] == pytest.approx(one["weights"], rel=1e-5)
        for ours, theirs in zip(seen["metrics"], one["metrics"], strict=True):
            assert ours == pytest.approx(theirs, rel=1e-3)
