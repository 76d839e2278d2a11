"""The benchmark of PGKD runs to its table, small, with the student that needs no package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pgkd.py"


@pytest.mark.slow
def test_the_benchmark_compares_arms_that_began_with_the_same_student(shared_data, tmp_path):
    command = [sys.executable, str(SCRIPT), "--data", "banking77", "--seeds", "1", "--rounds", "0", "--fresh"]
    environment = {**os.environ, "HF_DISTILL_SHARED_DATA": str(shared_data), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "pgkd.json")],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    results = json.loads((tmp_path / "pgkd.json").read_text())["results"]
    assert len(results) == 5
    assert len({one["accuracy"] for one in results}) == 1, "before the first round they are one student"
    assert "| banking77 | full PGKD |" in (tmp_path / "pgkd.md").read_text()
