"""Training from a teacher cache against training beside the live teacher: time of a step, and what the student learns.

    python benchmarks/offline_training.py --teacher path/or/name --json results.json --check

Two caches are filled first: of the most likely columns, and of as many draws. Then steps with the live teacher, with
each cache and without any teacher are taken in turns, so that a machine whose speed drifts slows all of them. The live
teacher's share of a step is its own forward pass, timed by itself. What the students know is compared by their
divergence from the live teacher on held-out text.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from datasets import DatasetDict
from transformers import AutoTokenizer, TrainerCallback, default_data_collator

from hf_distill import CacheTeacher, DistillationArguments, DistillationTrainer, LocalTeacher, capture
from hf_distill.data.language_modeling import load_packed_text

KEPT = ("cached", "drawn")
SOURCES = ("live", *KEPT, "none")


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        self.seconds.append(time.perf_counter() - self._start)


def trainer_for(source: str, args: argparse.Namespace, data: DatasetDict, folder: Path) -> DistillationTrainer:
    """A student beside one source of the teacher's signal; all start from the same weights."""
    teacher: Any = {"model": args.teacher, "dtype": "float32"} if source == "live" else None
    if source in KEPT:
        teacher = CacheTeacher(folder / source)
    losses = ["task"] if source == "none" else ["task", "forward_kl"]
    shape = LocalTeacher(args.teacher)
    return DistillationTrainer(
        model=student_of(shape),
        args=DistillationArguments(
            output_dir=str(folder / source),
            per_device_train_batch_size=args.batch,
            per_device_eval_batch_size=args.batch,
            max_steps=args.steps,
            learning_rate=3e-3,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
            losses=losses,
        ),
        teacher=teacher,
        train_dataset=data["train"],
        eval_dataset=data["test"],
        data_collator=default_data_collator,
        processing_class=shape.tokenizer,
    )


def student_of(teacher: LocalTeacher) -> Any:
    """Two narrow layers of the teacher's family."""
    from hf_distill import build_student

    return build_student(teacher.model.float(), "fresh", hidden_size=64, layers=2, heads=2, seed=0).model


def forward_seconds(args: argparse.Namespace, data: DatasetDict) -> float:
    """The median time of the live teacher's forward pass on a micro-batch, head included."""
    model = LocalTeacher(args.teacher).model.float()
    seconds = []
    for start in range(0, args.batch * 8, args.batch):
        rows = [data["train"][index] for index in range(start, start + args.batch)]
        inputs = {k: v for k, v in default_data_collator(rows).items() if k in ("input_ids", "attention_mask")}
        begin = time.perf_counter()
        with torch.no_grad():
            model(**inputs)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def main() -> int:
    """Fill the cache, train in turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="a folder or hub name of a causal language model")
    parser.add_argument("--k", type=int, default=32, help="columns kept, or draws")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures here, and a table beside them (.md)")
    parser.add_argument(
        "--check", action="store_true", help="exit with 1 where the cache does not save the teacher's time"
    )
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    texts = {"name": "python", "share": 0.05, "test_fraction": 0.1}
    data = load_packed_text({"texts": texts, "max_length": args.length}, AutoTokenizer.from_pretrained(args.teacher))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        begin = time.perf_counter()
        source = {"model": args.teacher, "dtype": "float32"}
        sizes = {}
        for kind, options in (("cached", {"k": args.k}), ("drawn", {"k": args.k, "draws": args.k})):
            kept = CacheTeacher(folder / kind, source=source, **options)
            for rows in (data["train"], data["test"]):
                capture(kept, rows, collator=default_data_collator, batch_size=args.batch)
            assert kept.store is not None
            sizes[kind] = kept.store.num_bytes / kept.store.num_tokens
        tokens = args.length * (len(data["train"]) + len(data["test"]))
        captured = len(sizes) * tokens / (time.perf_counter() - begin)
        seconds: dict[str, list[float]] = {source: [] for source in SOURCES}
        distance = {}
        for _ in range(args.rounds):
            for source in SOURCES:
                trainer = trainer_for(source, args, data, folder)
                times = StepTimes()
                trainer.add_callback(times)
                trainer.train()
                seconds[source] += times.seconds[args.steps // 4 :]
                if source != "none" and source not in distance:
                    judge = trainer_for("live", args, data, folder)
                    judge.model.load_state_dict(trainer.model.state_dict())
                    distance[source] = judge.evaluate()["eval_forward_kl_loss"]
    medians = {source: statistics.median(values) for source, values in seconds.items()}
    share = forward_seconds(args, data) / medians["live"]
    saved = 1 - medians["cached"] / medians["live"]
    rows = [
        *(
            {"what": f"step, {s}", "figure": 1e3 * m, "unit": "ms", "against": 1e3 * medians["live"]}
            for s, m in medians.items()
        ),
        {"what": "saved by the cache", "figure": saved, "unit": "share of the live step", "against": share},
        {"what": "capture", "figure": captured, "unit": "tokens/s", "against": None},
        *({"what": f"size, {s}", "figure": size, "unit": "bytes/token", "against": None} for s, size in sizes.items()),
        *(
            {"what": f"KL(live teacher || student), {s}", "figure": d, "unit": "nats", "against": distance["live"]}
            for s, d in distance.items()
        ),
    ]
    table = render(rows, args)
    print(table)
    if args.json:
        about = {"date": datetime.date.today().isoformat(), "machine": machine(), "config": vars(args) | {"json": None}}
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=1, default=str) + "\n")
        args.json.with_suffix(".md").write_text(table)
    # About the teacher's share: reading takes some of it back.
    return int(args.check and saved < 0.5 * share)


def render(rows: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """The table in Markdown."""
    lines = [
        f"Training from a cache, k = {args.k}, {args.batch} x {args.length} tokens a step: "
        f"{datetime.date.today().isoformat()}, {machine()}",
        "",
        "| | figure | unit | against |",
        "|---|---|---|---|",
    ]
    for row in rows:
        against = "" if row["against"] is None else f"{row['against']:.4g}"
        lines.append(f"| {row['what']} | {row['figure']:.4g} | {row['unit']} | {against} |")
    return "\n".join([*lines, ""])


def machine() -> str:
    """Where and with what this ran."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
