"""``hf-distill demo``: a student of a quarter of its teacher's size, distilled in three ways, from start to report.

The text is what every Python installation holds, at its natural sizes: two thirds of it is source code. The teacher saw
all domains equally often. The students start from the same weights and see equally many tokens, two of them in natural
proportions, the third in those that DDK chooses; each is one configuration of ``hf-distill train``.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..drivers.console import quiet_libraries
from ..plugins.discovery import installed_plugins

if TYPE_CHECKING:
    from rich.console import Console

    from .teacher import TeacherRecipe

_TRAINING = {
    "learning_rate": 6e-3,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
    "warmup_steps": 0.05,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 16,
    "save_strategy": "no",
    "report_to": "none",
    "dataloader_pin_memory": False,
}


@dataclass(frozen=True)
class Size:
    """How much the demo does.

    Attributes:
        data: what the models are trained on.
        teacher: fields of the teacher's `LlamaConfig`.
        teacher_steps: how long it is trained.
        student: options of the student builder `fresh`.
        steps: how long each student is trained.
        interval: steps between two moves of DDK's mixture.
        vocab_size: of the tokenizer.
        draws: of the teacher's distribution that are kept for each token.
    """

    data: Mapping[str, Any] = field(
        default_factory=lambda: {"texts": "python", "max_length": 128, "probe_rows": 48, "test_rows": 48}
    )
    teacher: Mapping[str, Any] = field(default_factory=lambda: _llama(160, 3, 4))
    teacher_steps: int = 1000
    student: Mapping[str, Any] = field(default_factory=lambda: {"hidden_size": 64, "layers": 2, "heads": 2})
    steps: int = 320
    interval: int = 40
    vocab_size: int = 4096
    draws: int = 64


def _llama(width: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "intermediate_size": width * 8 // 3,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }


FULL = Size()
QUICK = Size(
    data={
        "texts": {"name": "python", "share": 0.1, "probe_fraction": 0.15, "test_fraction": 0.15},
        "max_length": 64,
        "probe_rows": 8,
        "test_rows": 8,
    },
    teacher=_llama(64, 2, 2),
    teacher_steps=60,
    student={"hidden_size": 32, "layers": 1, "heads": 1},
    steps=30,
    interval=10,
    vocab_size=1024,
)


def demo(argv: list[str]) -> int:
    """Run ``hf-distill demo`` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hf-distill demo",
        description="Train a small language model on text that Python came with, distil it into a smaller one in three "
        "ways, and report. Takes a few minutes on two CPU cores; the teacher is kept for the next time.",
        allow_abbrev=False,
    )
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo"), help="default: outputs/demo")
    parser.add_argument("--seed", type=int, default=0, help="decides the student's first weights and the order of data")
    parser.add_argument("--quick", action="store_true", help="everything much smaller: shows that it runs, and no more")
    options = parser.parse_args(argv)
    if "ddk" not in {info.name for info, _ in installed_plugins()}:
        raise ValueError("The demo's third student needs the plugin ddk: pip install -e plugins/hf-distill-ddk")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # one process, so one GPU where there are several
    # Threads of such small models wait for one another all the time; beside other work, spinning ones would block it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read once, when torch is imported
    quiet_libraries()
    from rich.console import Console

    _run(QUICK if options.quick else FULL, options.output_dir, options.seed, Console())
    return 0


def arms(size: Size, teacher: Path, *, seed: int) -> dict[str, dict[str, Any]]:
    """The configurations to compare, by title; they differ in nothing but losses and selector."""
    common = {
        **_TRAINING,
        "seed": seed,
        "max_steps": size.steps,
        "eval_strategy": "steps",
        "eval_steps": size.interval,
        "logging_steps": max(size.interval // 4, 1),  # every change of the mixture is in the log
        # What the teacher says is kept: the second student that reads a text, or the second demo, does not ask again.
        # It is drawn, since this teacher's distributions are flat: a third of their mass is outside the best 64 tokens.
        "teacher": {
            "kind": "cache",
            "path": f"{teacher}-answers",
            "source": str(teacher),
            "k": size.draws,
            "draws": size.draws,
        },
        "student": {"builder": "fresh", "seed": seed, **size.student},
        "data": dict(size.data),
    }
    # DDK's paper weighs KL by 0.2, over 30,000 steps; of the few steps here, a larger weight makes more.
    distilled = {"losses": [{"name": "task", "weight": 1.0}, {"name": "forward_kl", "weight": 5.0}]}
    # A student that knows nothing is hundreds of times behind, which would leave one domain alone in the mixture.
    ddk = {"plugins": ["ddk"], "selector": {"name": "ddk", "interval": size.interval, "max_ratio": 6.0}}
    return {
        "cross-entropy": {**common, "losses": ["task"]},
        "KD": {**common, **distilled},
        "KD + DDK": {**common, **distilled, **ddk},
    }


def teacher_recipe(size: Size) -> TeacherRecipe:
    """How the teacher of a demo of this size is made."""
    from .teacher import TeacherRecipe

    # The teacher's own mixture is balanced: it knows domains of which the students' text has little.
    selector = {"name": "mixture", "weights": "uniform"}
    training = {**_TRAINING, "max_steps": size.teacher_steps, "logging_steps": 20, "seed": 0, "selector": selector}
    return TeacherRecipe(data=size.data, vocab_size=size.vocab_size, model=size.teacher, training=training)


def _run(size: Size, output_dir: Path, seed: int, console: Console) -> None:
    import yaml

    from ..drivers.training import run
    from .report import print_usage, report
    from .teacher import teacher_folder

    console.rule("[bold]teacher", align="left")
    teacher = teacher_folder(teacher_recipe(size), console)
    folders = {}
    for title, config in arms(size, teacher, seed=seed).items():
        console.rule(f"[bold]{title}", align="left")
        folder = folders[title] = output_dir / title.lower().replace(" + ", "_").replace("-", "_")
        folder.mkdir(parents=True, exist_ok=True)
        config = {**config, "output_dir": str(folder)}
        (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        run(config, title=title, console=console, describe=False)
    console.rule("[bold]report", align="left")
    report(teacher, folders, output_dir, console)
    print_usage(folders["KD + DDK"], console)
