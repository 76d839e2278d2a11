"""`benchmarks/loss_engine.py`: every row loss gets its row, and what is timed computes the loss."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path

import pytest

from hf_distill import BatchLoss, Plugins

ARGUMENTS = argparse.Namespace(device="cpu", dtype="float32", hidden=16, teacher_hidden=24)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("loss_engine")


def test_every_registered_row_loss_has_a_row(benchmark):
    losses = Plugins(["lm", "classification"]).losses
    expected = {
        component.name
        for component in losses
        if not (isinstance(component.resolve(), type) and issubclass(component.resolve(), BatchLoss))
    }
    assert {"forward_kl", "taid", "aligndistil"} <= expected  # the plugin is there
    assert set(benchmark.row_loss_names()) == expected


def test_what_is_timed_computes_the_loss(benchmark):
    for loss in benchmark.row_loss_names():
        for method in ("plain", "engine"):  # compared with plain PyTorch on a small problem
            assert benchmark.reason_to_skip(method, loss, 40, 100, ARGUMENTS) is None, loss


def test_a_slow_loss_is_marked(benchmark):
    line = {"vocab": 100, "loss": "x", "method": "engine", "skipped": None, "seconds": 1.0, "peak_mb": 1.0}
    assert "above" in benchmark.render_line({**line, "over_bare": benchmark.LIMIT + 0.01})
    assert "above" not in benchmark.render_line({**line, "over_bare": benchmark.LIMIT - 0.01})


def test_an_unknown_loss_is_refused(benchmark, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["loss_engine.py", "--losses", "forward_lk"])
    with pytest.raises(SystemExit):
        benchmark.parse_arguments()
    assert "no row loss 'forward_lk'" in capsys.readouterr().err
