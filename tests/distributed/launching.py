"""Starting a script alone, or on two processes under DDP or DeepSpeed ZeRO."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# DeepSpeed keeps parameters below 100,000 elements whole by default, which is all that tiny models have.
ZERO3 = {
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
}
BACKENDS = {
    "ddp": ["--multi_gpu"],
    "zero1": ["--use_deepspeed", "--zero_stage", "1"],
    "zero2": ["--use_deepspeed", "--zero_stage", "2"],
    "zero3": ["--use_deepspeed", "--deepspeed_config_file", "{config}"],
}


def launch(
    backend: str, processes: int, script: Path, *arguments: str, check: bool = True
) -> subprocess.CompletedProcess:
    """Run `script` and wait for it; `backend` "single" means without a launcher."""
    config = Path(tempfile.mkdtemp()) / "zero3.json"
    config.write_text(json.dumps(ZERO3))
    command = [sys.executable]
    if backend != "single":
        command += ["-m", "accelerate.commands.launch", *(word.format(config=config) for word in BACKENDS[backend])]
        command += ["--num_processes", str(processes)]
        command += ["--num_machines", "1", "--dynamo_backend", "no"]
        if backend != "zero3":  # whose file says it
            command += ["--mixed_precision", "no"]
    command += [str(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    if check:
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done
