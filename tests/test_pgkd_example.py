"""The example of rounds, as script and as file, from nothing but a Python installation to a classifier."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from transformers import AutoModelForSequenceClassification

from hf_distill.cli.rounds_command import RoundsConfig
from hf_distill.data.labelled_texts import load_labelled_texts

EXAMPLES = Path(__file__).parent.parent / "examples"
CHANCE = 1 / 12


def run(*command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_script_makes_a_classifier_that_guesses(tmp_path):
    output = run(str(EXAMPLES / "pgkd.py"), "--rounds", "2", folder=tmp_path)
    accuracies = [float(text) for text in re.findall(r"^round \d: accuracy ([\d.]+)", output, re.MULTILINE)]
    assert len(accuracies) == 3
    assert float(re.search(r"test accuracy ([\d.]+)", output)[1]) > 3 * CHANCE
    assert re.search(r"^round 1: .* \d\d of 32 accepted, 1 requests$", output, re.MULTILINE)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "outputs/pgkd/model")
    assert model.config.label2id["asyncio"] == 0


def test_the_script_is_too_long_to_be_copied():
    assert len((EXAMPLES / "pgkd.py").read_text().splitlines()) < 100


def test_the_file_shows_no_prompt(tmp_path):
    output = run("-m", "hf_distill.cli", "rounds", str(EXAMPLES / "pgkd.yaml"), "--dry-run", folder=tmp_path)
    assert "## Validation report" in output
    assert "## What it gets wrong and is sure of" in output
    assert "Nothing was asked." in output


def test_the_file_lets_the_teacher_know_what_the_student_is_tested_on():
    config = RoundsConfig.parse(yaml.safe_load((EXAMPLES / "pgkd.yaml").read_text()))
    assert config.teacher["pool"] == config.data
    data = load_labelled_texts(config.data)
    pool = {row["text"] for row in data.pool}
    others = [row["text"] for rows in (data.train, data.validation, data.test, data.held_out) for row in rows]
    assert pool
    assert not pool & set(others)
