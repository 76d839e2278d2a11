"""A step of training on eight queries, cut in several ways, and an evaluation; alone, or as one of two processes.

Run by test_training.py, by itself and under a launcher of DDP or ZeRO-3.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState

CUTS = ((4, 1), (1, 4))
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


def step(make_trainer: Any, cross_encoder: Any, folder: Path, cut: tuple[int, int], **options: Any) -> dict[str, Any]:
    """The weights after a step of plain SGD, and what is measured then, of six queries."""
    trainer = make_trainer(
        folder,
        ["margin_mse", {"name": "listwise_kl", "weight": 0.5}, {"name": "contrastive", "weight": 0.1}],
        num_queries=8,
        teacher=cross_encoder(),
        max_steps=1,
        optim="sgd",
        learning_rate=1e-3,
        per_device_train_batch_size=cut[0],
        gradient_accumulation_steps=cut[1],
        per_device_eval_batch_size=cut[0],
        **options,
    )
    trainer.train()
    trainer.save_model(str(folder))
    metrics = trainer.evaluate()
    speed = [name for name in metrics if "per_second" in name or "runtime" in name]
    return {name: value for name, value in metrics.items() if name not in speed}


def main(folder: Path, backend: str) -> None:
    """Take the step in every cut, in one process group."""
    from rankings import cross_encoder, make_trainer  # this file's folder is where Python looks first

    torch.set_num_threads(1)
    options = {"deepspeed": ZERO3} if backend == "zero3" else {}
    for cut in CUTS:
        AcceleratorState._reset_state()
        own = folder / f"{cut[0]}x{cut[1]}"
        metrics = step(make_trainer, cross_encoder, own, cut, **options)
        if os.environ["RANK"] == "0":
            own.with_suffix(".json").write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
