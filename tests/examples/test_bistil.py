"""examples/bistil.py as it stands, on sentences that it makes itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "bistil.py"


@pytest.mark.slow
def test_the_example_ends_and_its_task_changes_few_parameters(tmp_path):
    absent = {"HF_HOME": str(tmp_path / "hf"), "HF_DISTILL_SHARED_DATA": str(tmp_path / "absent")}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **absent, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("teacher", "head", "full", "sparse"):
        assert f"{name}: F1 " in done.stdout
    changed, parameters = map(int, done.stdout.rpartition("the task changed ")[2].split(" parameters")[0].split(" of "))
    assert 0 < changed < 0.08 * parameters
