"""Starting a script alone, or on two processes under DDP or DeepSpeed ZeRO."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BACKENDS = {
    "ddp": ["--multi_gpu"],
    "zero1": ["--use_deepspeed", "--zero_stage", "1"],
    "zero2": ["--use_deepspeed", "--zero_stage", "2"],
    "zero3": ["--use_deepspeed", "--zero_stage", "3", "--zero3_save_16bit_model", "true"],
}


def launch(
    backend: str, processes: int, script: Path, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess:
    """Run `script` and wait for it; `backend` "single" means without a launcher."""
    command = [sys.executable]
    if backend != "single":
        command += ["-m", "accelerate.commands.launch", *BACKENDS[backend], "--num_processes", str(processes)]
        command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += [str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if check:
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done
