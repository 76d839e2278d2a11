"""The example of rankings, as script and as file: from nothing but a Python installation, and with a cross-encoder."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModel

from hf_distill import CacheTeacher
from hf_distill.cli.main import main
from hf_distill.testing import tiny_model, tiny_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
CHANCE = sum(1 / rank for rank in range(1, 9)) / 8  # of the reciprocal rank of one among eight


def run(*command, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hf")}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=folder,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the script ran a few steps without anything."""
    folder = tmp_path_factory.mktemp("ranking")
    output = run(EXAMPLES / "ranking.py", "--max_steps", "30", folder=folder)
    (folder / "output.txt").write_text(output)
    return folder


def test_the_script_makes_a_student_that_is_better_than_chance(folder):
    output = (folder / "output.txt").read_text()
    assert float(re.search(r"eval_mrr@10 += +([\d.]+)", output)[1]) > 1.3 * CHANCE
    assert re.search(r"^found: \w+", output, re.MULTILINE)
    assert type(AutoModel.from_pretrained(folder / "outputs/ranking")).__name__ == "BertModel"


def test_the_file_runs_and_goes_on_from_its_last_step_when_it_is_resumed(folder, monkeypatch):
    monkeypatch.chdir(folder)
    less = {"preset": "hf_distill_ranking.data:function_search", "scores": "words", "num_train": 64, "num_test": 64}
    train = ["train", str(EXAMPLES / "ranking.yaml"), "--data", json.dumps(less), "--save_steps", "2"]
    for more in (["--max_steps", "2"], ["--max_steps", "4", "--resume"]):
        assert main([*train, "--logging_steps", "1", *more]) == 0
    record = json.loads((folder / "outputs/ranking-yaml/run.json").read_text())
    assert 0 < record["metrics"]["eval_mrr@10"] < 1
    steps = [entry["step"] for entry in record["log_history"] if "margin_mse_loss" in entry]
    assert steps == [1, 2, 3, 4]


def test_a_cross_encoder_from_a_folder_is_asked(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    tiny_model("bert_classifier", num_labels=1).save_pretrained(folder / "cross")
    tiny_tokenizer().save_pretrained(folder / "cross")
    rows = [{"query": f"w{n} w9", "positive": f"w{n}", "negatives": ["w7", f"w{n + 1}"]} for n in range(10, 26)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--data", "rows.jsonl", "--test", "rows.jsonl", "--output_dir", "own", "--max_steps", "2"]
    arguments = ["--teacher", "cross", "--student", "outputs/ranking", "--output_dir", "own", "--max_steps", "2"]
    data = ["--data", "rows.jsonl", "--test", "rows.jsonl"]
    monkeypatch.setattr(sys, "argv", ["ranking.py", *arguments, *data])
    runpy.run_path(str(EXAMPLES / "ranking.py"), run_name="__main__")
    assert "eval_ndcg@10" in capsys.readouterr().out
    assert len(CacheTeacher(folder / "own" / "scores").store) == 48
