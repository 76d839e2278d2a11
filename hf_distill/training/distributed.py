"""What the processes of a run do together outside of their models."""

from __future__ import annotations

import atexit
import functools
import time

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor


def check_processes(accelerator: Accelerator, fingerprint: str) -> None:
    """Compare all processes before the first step; collective.

    Args:
        accelerator: the trainer's.
        fingerprint: of the plugins of this process.

    Raises:
        ValueError: accelerate and torch.distributed count differently, or plugins differ between processes.
    """
    running = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if running != accelerator.num_processes:
        raise ValueError(
            f"torch.distributed runs {running} processes, but accelerate knows of {accelerator.num_processes}, and "
            "gradients would be averaged wrongly. Without a GPU, pass use_cpu=True (--use_cpu true)."
        )
    fingerprints = gather_object([fingerprint])
    if len(set(fingerprints)) > 1:
        listed = "; ".join(f"process {rank}: {text}" for rank, text in enumerate(fingerprints))
        raise ValueError(f"The processes run different plugins or versions of them: {listed}. Install the same.")


def sum_over_processes(values: Tensor) -> Tensor:
    """Sum of `values` over all processes, in place; collective where a process group runs."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values


def end_processes_in_order() -> None:
    """Let this process, one of several, end with its own exit code.

    The threads of gloo let go of a finished call's tensors a little after the call has returned, and need Python's lock
    for that. Where something keeps the process group beyond its destruction, as DeepSpeed does, a thread that asks for
    the lock of an interpreter that is ending aborts the process (torch 2.13). So they get a moment before it ends.
    """
    if dist.is_available() and dist.is_initialized():
        _wait_at_exit()


@functools.cache
def _wait_at_exit() -> None:
    atexit.register(time.sleep, 0.5)
