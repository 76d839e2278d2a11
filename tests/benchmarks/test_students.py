"""`benchmarks/students.py`: its experiments, and that what is committed is theirs."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from hf_distill import Plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture
def students(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("students")


@pytest.fixture
def known(students):
    return students.load(students.experiment_names(students.PACKAGE), students.PACKAGE)


def test_every_experiment_can_be_imported(known):
    assert not {name: error for name, error in known.items() if isinstance(error, Exception)}
    assert "grow" in known


def test_every_committed_result_is_whole_and_of_the_current_arms(students, known):
    results = students.read(students.RESULTS)["experiments"]
    for name, experiment in known.items():
        problem = students.broken(experiment, results.get(name))
        assert problem is None, f"{name}: {problem}; run `python benchmarks/students.py --only {name}`"


def test_the_table_is_that_of_the_results(students, known):
    table = students.table(students.read(students.RESULTS), known, script=students.SCRIPT)
    assert students.RESULTS.with_suffix(".md").read_text(encoding="utf-8") == table


def test_a_broken_builder_fails_the_check(students, known, monkeypatch, tmp_path):
    broken = dataclasses.replace(known["grow"], arms={name: lambda seed: {} for name in known["grow"].arms}, data=())
    monkeypatch.setattr(students, "load", lambda names, package: {"grow": broken})
    assert students.main(["--json", str(tmp_path / "students.json"), "--check"]) == 1
    report = json.loads((tmp_path / "students.json").read_text())
    assert "KeyError" in report["experiments"]["grow"]["error"]


def test_every_builder_but_the_miniature_has_an_experiment(known):
    builders = {component.name for component in Plugins(["weightmaps"]).students}
    builders -= {component.name for component in Plugins().students}
    described = {one.removeprefix("student ") for experiment in known.values() for one in experiment.components}
    # A miniature is a shape with random weights; what pre-training makes of one is in `methods.py`, well_read.
    assert builders - {"miniature"} <= described
