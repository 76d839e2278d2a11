"""Cut-invariance over processes: ``python -m hf_distill.testing.two_processes`` is what each process runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch.distributed as dist
from safetensors.torch import load_file, save_file

from .subject import NUM_EXAMPLES, Subject
from .training_properties import compare_steps, one_step

NUM_PROCESSES = 2
CUTS = ((NUM_EXAMPLES // NUM_PROCESSES, 1), (1, NUM_EXAMPLES // NUM_PROCESSES))


def process_invariance(subject: Subject) -> None:
    """A gradient or a state that depends on how many processes a step is spread over (DDP on two CPU processes).

    Raises:
        AssertionError: it does, or a process failed.
        ValueError: the component is an object, which another process cannot be told of.
    """
    if not isinstance(subject.component, str):
        raise ValueError(f"{subject.name} is an object, which other processes do not have; give its registered name.")
    whole = one_step(subject, NUM_EXAMPLES, 1)
    with tempfile.TemporaryDirectory() as folder:
        specification = Path(folder) / "subject.json"
        specification.write_text(json.dumps(asdict(replace(subject, reference=None))))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={NUM_PROCESSES}"]
        done = subprocess.run(
            [*command, "-m", __name__, str(specification)],
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
            env={"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        if done.returncode != 0:
            raise AssertionError(f"a process failed:\n{done.stderr[-4000:]}")
        found = [load_file(specification.with_name(f"{size}x{count}.safetensors")) for size, count in CUTS]
    compare_steps(found, whole, names=[f"{size} x {count} on {NUM_PROCESSES} processes" for size, count in CUTS])


def main(arguments: Sequence[str]) -> None:
    """Take a step of each cut as one of the processes; the first one saves what it did."""
    specification = Path(arguments[0])
    subject = Subject(**json.loads(specification.read_text()))
    for size, count in CUTS:
        step = one_step(subject, size, count)
        if dist.get_rank() == 0:
            save_file(step, specification.with_name(f"{size}x{count}.safetensors"))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1:])
