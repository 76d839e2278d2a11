"""Small runs in stages, for tests in this process, for those that kill one, and for two processes.

python stage_script.py FOLDER killed      the same run, killed at several moments in turn, each time taken up again
accelerate launch ... stage_script.py FOLDER processes
"""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from hf_distill import Blueprint, Source, StagesDriver, hookimpl, keep_blocks, shape_only, skeleton
from hf_distill.data.training_data import TrainingData
from hf_distill.drivers.stage_files import StageFiles
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

MOMENTS = (
    *("general:2", "general:saved", "general:ended", "task:1", "task:5", "task:saved", "again:3"),
    *("grown:1", "grown:3", "changed:3", "changed:saved"),
)
COMMON = {
    "per_device_train_batch_size": 4,
    "max_steps": 6,
    "learning_rate": "1e-2",  # as YAML reads 1e-2
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 1,
    "disable_tqdm": True,
    "use_cpu": True,
    "dataloader_pin_memory": False,
}


def data(seed: int) -> TrainingData:
    """Sequences to train on and others to evaluate on."""
    collator = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)
    return TrainingData(causal_lm_dataset(24, seed=seed), causal_lm_dataset(8, seed=seed + 1), collator=collator)


def stages() -> list[dict]:
    """A latent loss with a projection, which goes on beside another loss, and a generation after them."""
    teacher = tiny_model("llama", seed=1, hidden_size=48)
    return [
        {"name": "general", "teacher": teacher, "losses": ["hidden_mse"], "data": data(0)},
        {
            **{"name": "task", "teacher": teacher, "losses": ["task", "hidden_mse", "forward_kl"], "data": data(2)},
            "trainable": ["model.layers.1.*", "lm_head.*"],
        },
        {"name": "again", "teacher": {"stage": "previous"}, "student": {"stage": "initial"}, "data": data(2)},
    ]


def surgery() -> list[dict]:
    """After those, a student that grows out of the one before, and one whose modules are changed."""
    return [
        {
            **{"name": "grown", "student": {"builder": "doubled", "from": {"stage": "previous"}}},
            **{"teacher": {"stage": "task"}, "losses": ["forward_kl", "hidden_mse"], "data": data(0), "max_steps": 4},
        },
        {
            **{
                "name": "changed",
                "transform": {"name": "gain", "factor": 3.0},
                "trainable": ["*.gain", "*.layers.0.*"],
            },
            **{"teacher": {"stage": "grown"}, "losses": ["task", "forward_kl"], "data": data(2), "max_steps": 4},
        },
    ]


class Surgeon:
    """A plugin with a builder that makes two blocks of each, and a transform that adds a gain behind the last norm."""

    @hookimpl
    def register_students(self, register):
        register("doubled", doubled)
        register("gain", gain, kind="transform")


@shape_only
def doubled(teacher):
    depth = teacher.config.num_hidden_layers
    kept = [block for block in range(depth) for _ in range(2)]
    config = copy.deepcopy(teacher.config)
    keep_blocks(config, kept, depth)
    mapping = {}
    for name in skeleton(teacher, config).state_dict():
        head, layers, rest = name.partition("layers.")
        index, _, rest = rest.partition(".")
        origin = f"{head}layers.{kept[int(index)]}.{rest}" if layers else name
        mapping[name] = Source("copy", (origin,))
    return Blueprint(config, mapping, kept)


class Gained(torch.nn.Module):
    def __init__(self, norm, factor):
        super().__init__()
        self.norm = norm
        self.gain = torch.nn.Parameter(torch.full((1,), float(factor)))

    def forward(self, hidden):
        return self.gain * self.norm(hidden)


def gain(model, *, factor=1.0):
    model.model.norm = Gained(model.model.norm, factor)


class Kill(TrainerCallback):
    """Ends the process in the middle of a training."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            end()


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def make_driver(folder: Path, *, kill: str = ":", specs=None, **options) -> StagesDriver:
    """A run of five stages on tiny models."""
    killed, _, moment = kill.partition(":")
    options = {"student": tiny_model("llama"), "tokenizer": tiny_tokenizer(), "plugins": [Surgeon()], **options}
    driver = StagesDriver(
        [*stages(), *surgery()] if specs is None else specs,
        output_dir=folder,
        defaults={**COMMON, **options.pop("defaults", {})},
        callbacks=lambda name: [Kill(int(moment))] if name == killed and moment.isdigit() else [],
        **options,
    )
    finish = StageFiles.finish

    def ended(self, partial, record):
        if (record.name, moment) == (killed, "saved"):
            end()
        finish(self, partial, record)
        if (record.name, moment) == (killed, "ended"):
            end()

    StageFiles.finish = ended if killed else finish
    return driver


def run_killed(folder: Path) -> None:
    """Kill the run at each moment in turn; the last time let it end."""
    for kill in (*MOMENTS, ":"):
        child = os.fork()
        if child == 0:
            make_driver(folder, kill=kill).run()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert status == (0 if kill == ":" else signal.SIGKILL), f"{kill}: {status}"


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    if sys.argv[2] == "killed":
        run_killed(folder)
        return
    micro_batch = 4 // int(os.environ.get("WORLD_SIZE", "1"))
    result = make_driver(folder, defaults={"per_device_train_batch_size": micro_batch}).run()
    state = load_file(result.folder / "model.safetensors")  # a model would load in shards under ZeRO-3
    seen = {
        "metrics": [record.metrics for record in result.records],
        "weights": sum(value.double().abs().sum().item() for value in state.values()),
    }
    folder.with_name(f"rank-{PartialState().process_index}.json").write_text(json.dumps(seen))
    PartialState().destroy_process_group()


if __name__ == "__main__":
    main()
