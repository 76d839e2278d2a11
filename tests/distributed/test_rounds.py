"""A run in rounds on two processes: one of them asks, both train on the same rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .launching import launch

SCRIPT = Path(__file__).parent.parent / "rounds" / "round_script.py"


@pytest.mark.distributed
def test_two_processes_train_on_the_same_rows_and_ask_each_request_once(tmp_path):
    folder = tmp_path / "run"
    launch("ddp", 2, SCRIPT, str(folder), "processes")
    seen = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in range(2)]
    assert seen[0] == seen[1]
    assert seen[0]["rows"][2] > seen[0]["rows"][0]
    assert len((tmp_path / "run.log").read_text().split()) == 4, "each request once, by one process"
    written = [json.loads(line) for line in (folder / "rounds/01/rows.jsonl").read_text().splitlines()]
    assert sum(not row["reason"] for row in written) == seen[0]["rows"][1] - seen[0]["rows"][0]
