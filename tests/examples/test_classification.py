"""The examples of classifiers, as scripts with the files beside them, from nothing but the installed packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoModelForSequenceClassification, DeiTForImageClassificationWithTeacher

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(script, *arguments, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HOME": str(folder / "hf")}
    command = [sys.executable, str(EXAMPLES / script), "--max_steps", "2", "--disable_tqdm", "true", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=280, cwd=folder, env=environment, check=False
    )


def test_the_long_tail_example_ends_with_a_student(tmp_path):
    done = run("long_tail.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    shown = re.findall(r"^(.+): all ([\d.]+), frequent ([\d.]+), rare ([\d.]+)$", done.stdout, re.MULTILINE)
    assert [name for name, *_ in shown] == ["teacher", "student", "its head for labels", "its head for the teacher"]
    student, report = DeiTForImageClassificationWithTeacher.from_pretrained(
        tmp_path / "outputs/long-tail", output_loading_info=True
    )
    assert student.config.num_labels == 10
    assert not any(report.values())


def test_a_table_of_few_labels_ends_with_a_classifier(tmp_path):
    for split, number in (("train", 12), ("test", 4)):
        rows = [f"{name} item {n},{name}" for n in range(number) for name in ("billing", "delivery")]
        (tmp_path / f"{split}.csv").write_text("\n".join(["sentence,topic", *rows]) + "\n")
    tables = ["--train", "train.csv", "--test", "test.csv", "--text_column", "sentence", "--label_column", "topic"]
    done = run("few_labels.py", *tables, "--per_class", "5", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "10 labelled texts of 2 classes; 24 texts for the teacher" in done.stdout
    assert len(re.findall(r"^(?:teacher|student), .*: [01]\.\d{3}$", done.stdout, re.MULTILINE)) == 3
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "outputs/few-labels")
    assert model.config.id2label == {0: "billing", 1: "delivery"}


@pytest.mark.slow
def test_docstrings_are_the_data_where_no_table_is_given(tmp_path):
    done = run("few_labels.py", folder=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "120 labelled texts of 12 classes" in done.stdout


@pytest.mark.slow
def test_a_train_table_without_a_test_table_is_refused(tmp_path):
    done = run("few_labels.py", "--train", "train.csv", folder=tmp_path)
    assert done.returncode == 2
    assert "give --train and --test together" in done.stderr
