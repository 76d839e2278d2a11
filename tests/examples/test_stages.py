"""examples/stages.py as it stands: it kills itself in the third stage and comes to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

EXAMPLE = Path(__file__).parents[2] / "examples" / "stages.py"


@pytest.mark.slow
def test_the_example_ends_without_repeating_finished_stages(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, again = done.stdout.split("killed; finished so far: 00-general, 01-enhanced\n")
    assert "general: 30 steps" in first
    assert "general: 30 steps" not in again
    assert "projections went on in: enhanced, adaptive, specific" in again
    AutoModelForCausalLM.from_pretrained(tmp_path / "outputs/stages/model")
