"""Metrics over two processes, whose last batches are uneven, are those of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .launching import launch
from .metrics_script import METRICS

pytestmark = pytest.mark.distributed


def test_metrics_do_not_depend_on_the_number_of_processes(tmp_path):
    found = {}
    for backend, processes in (("single", 1), ("ddp", 2)):
        (tmp_path / backend).mkdir()
        launch(backend, processes, Path(__file__).with_name("metrics_script.py"), str(tmp_path / backend))
        found[backend] = json.loads((tmp_path / backend / "metrics.json").read_text())
    names = [name for name in found["single"] if "time" not in name and "per_second" not in name]
    assert len(names) >= len(METRICS)
    for name in names:
        assert found["ddp"][name] == pytest.approx(found["single"][name], rel=1e-5), name
