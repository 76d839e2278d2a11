"""`benchmarks/methods.py`: what its verdicts say, what counts as broken, and that docs/methods.md tells the results."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from pathlib import Path

import pytest

from hf_distill import Plugins

ROOT = Path(__file__).parents[2]


@pytest.fixture
def methods(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("methods")


@pytest.fixture
def frame(methods):
    return importlib.import_module("experiments.frame")


@pytest.fixture
def experiment(frame):
    """An experiment that takes no time: the method is better by 1 and a little that depends on the seed."""
    return frame.Experiment(
        method="Method",
        package="hf-distill",
        components=("loss jsd",),
        paper="Nobody 2000",
        evidence="faithful",
        what="It does one thing. It does another.",
        needs="A teacher.",
        expects="less",
        metric="error",
        unit="nats",
        better="lower",
        baseline="without",
        arm="with",
        arms={"without": lambda seed: {"error": 3.0}, "with": lambda seed: {"error": 2.0 - 0.1 * seed}},
    )


@pytest.fixture
def run(methods, monkeypatch, tmp_path):
    """Runs the benchmark on the given experiments and gives its exit status and its report."""

    def run_benchmark(experiments, *arguments):
        monkeypatch.setattr(methods, "experiment_names", lambda: list(experiments))
        monkeypatch.setattr(methods, "load", lambda names: dict(experiments))
        status = methods.main(["--json", str(tmp_path / "methods.json"), "--check", *arguments])
        return status, json.loads((tmp_path / "methods.json").read_text())

    return run_benchmark


@pytest.mark.parametrize(
    ("gains", "better", "verdict"),
    [
        ([0.2, 0.3, 0.25], "higher", "shown"),
        ([-0.2, -0.3, -0.25], "lower", "shown"),
        ([-0.2, -0.3, -0.25], "higher", "reversed"),
        ([0.2, -0.1, 0.3], "higher", "not shown"),  # one seed of the wrong sign
        ([0.01, 0.5, 0.01], "higher", "not shown"),  # the mean, 0.17, is below the deviation, 0.28
        ([0.5], "higher", "not shown"),  # one seed has no deviation
        ([0.0, 0.0, 0.0], "higher", "not shown"),
    ],
)
def test_noise_is_not_called_an_effect(frame, gains, better, verdict):
    baseline = [1.0, 2.0, 3.0][: len(gains)]
    method = [start + gain for start, gain in zip(baseline, gains, strict=True)]
    assert frame.Effect.of(baseline, method, better=better).verdict == verdict


def test_the_effect_is_paired_by_seed(frame):
    # Seeds differ by far more than the arms; only their differences are steady.
    found = frame.Effect.of([10.0, 20.0, 60.0], [9.0, 18.9, 58.8], better="lower")
    assert found.mean == pytest.approx(1.1)
    assert found.spread == pytest.approx(0.1)


def test_rows_hold_the_figures_of_the_arms(run, experiment):
    status, report = run({"method": experiment})
    assert status == 0
    (row,) = report["rows"]
    assert row == {
        "what": "with: error",
        "figure": 1.9,
        "unit": "nats",
        "against": 3.0,
        "effect": 1.1,
        "spread": 0.1,
        "verdict": "shown",
    }
    assert {"date", "hardware", "versions", "config"} <= report["experiments"]["method"].keys()


@pytest.mark.parametrize(
    ("arm", "says"),
    [
        (lambda seed: {"error": 1 / (seed - 1)}, "ZeroDivisionError"),
        (lambda seed: {"error": math.nan}, "no finite error"),
        (lambda seed: {"other": 1.0}, "KeyError"),
    ],
)
def test_a_broken_arm_fails_the_check(run, experiment, arm, says, capsys):
    crashed = dataclasses.replace(experiment, arms={**experiment.arms, "with": arm})
    status, report = run({"crashed": crashed, "fine": experiment})
    assert status == 1
    assert len(report["rows"]) == 1  # and the other one was run all the same
    assert says in capsys.readouterr().out


def test_a_gain_that_does_not_show_passes_the_check(run, experiment):
    worse = dataclasses.replace(experiment, better="higher")
    status, report = run({"worse": worse})
    assert status == 0
    assert report["rows"][0]["verdict"] == "reversed"


def test_absent_data_and_a_plugin_that_is_not_installed_fail_the_check(run, experiment, capsys):
    absent = dataclasses.replace(experiment, data=("no_such_folder",))
    status, report = run({"absent": absent, "not_importable": ImportError("no hf_distill_x")})
    assert status == 1
    assert report["rows"] == []
    assert "no shared data no_such_folder" in capsys.readouterr().out


def test_running_one_experiment_keeps_the_results_of_the_other_known_ones(run, experiment):
    other = dataclasses.replace(experiment, arms={**experiment.arms, "with": lambda seed: {"error": 2.5 - 0.1 * seed}})
    run({"a": experiment, "b": experiment})
    status, report = run({"a": other, "b": experiment}, "--only", "a")
    assert status == 0
    assert [row["figure"] for row in report["rows"]] == [2.4, 1.9]
    _, report = run({"b": experiment}, "--only")  # the file of a is gone
    assert list(report["experiments"]) == ["a", "b"]
    _, report = run({"b": experiment}, "--only", "b")
    assert list(report["experiments"]) == ["b"]


def test_an_unknown_name_is_refused_with_the_names_there_are(run, experiment, capsys):
    with pytest.raises(SystemExit):
        run({"a": experiment}, "--only", "b")
    assert "no experiment 'b'; there are a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "value"), [("evidence", "sure"), ("better", "more"), ("baseline", "nothing"), ("arm", "everything")]
)
def test_an_experiment_with_a_typo_is_refused(experiment, field, value):
    with pytest.raises(ValueError, match=repr(value)):
        dataclasses.replace(experiment, **{field: value})


def test_options_are_documented(methods, experiment):
    page = importlib.import_module("methods_docs").render({"method": experiment}, {"experiments": {}})
    assert "| `beta` | `0.5` | weight of the teacher" in page
    assert "Seen: nothing: not run yet" in page


def test_every_loss_of_the_method_packages_has_an_experiment(frame):
    losses = {component.name for component in Plugins(["classification", "features", "lm"]).losses}
    losses -= {component.name for component in Plugins().losses}
    experiments = frame.load(frame.experiment_names())
    assert not [error for error in experiments.values() if isinstance(error, Exception)]
    described = {component for experiment in experiments.values() for component in experiment.components}
    assert losses <= {component.removeprefix("loss ") for component in described}


def test_every_committed_result_is_whole_and_of_the_current_arms(methods, frame):
    results = methods.read(methods.RESULTS)["experiments"]
    for name, experiment in frame.load(frame.experiment_names()).items():
        problem = frame.broken(experiment, results.get(name))
        assert problem is None, f"{name}: {problem}; run `python benchmarks/methods.py --only {name}`"


def test_the_methods_page_tells_the_committed_results(methods, frame):
    docs = importlib.import_module("methods_docs")
    page = docs.render(frame.load(frame.experiment_names()), methods.read(methods.RESULTS))
    assert methods.DOCS.read_text(encoding="utf-8") == page, f"run `{docs.COMMAND}`"
