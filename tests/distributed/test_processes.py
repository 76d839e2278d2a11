"""Processes of a run end with exit code 0, also where something keeps the process group (as DeepSpeed does)."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.distributed

SCRIPT = """
import torch
import torch.distributed as dist
from hf_distill.training.distributed import end_processes_in_order

dist.init_process_group("gloo")
end_processes_in_order()
kept = dist.group.WORLD
for _ in range(200):
    dist.all_reduce(torch.ones(1000))
dist.destroy_process_group()
"""


def test_no_process_aborts_while_its_interpreter_ends(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    for _ in range(3):  # each aborted about every second time
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr[-3000:]
