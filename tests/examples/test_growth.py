"""examples/growth.py as it stands: killed while it trains small, it comes to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

EXAMPLE = Path(__file__).parents[2] / "examples" / "growth.py"


@pytest.mark.slow
def test_the_example_ends_without_training_a_finished_level_again(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, again = done.stdout.split("killed in the second stage; finished so far: 00-level-1\n")
    assert "level-1: 30 steps" in first
    assert "level-1: 30 steps" not in again
    for name in ("level-1", "level-2", "level-1-again", "alone"):
        assert f"{name}: " in again
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "outputs/growth/model")
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (96, 4)
