"""Capture a teacher on one machine, train on another: both halves of it, on Python's own documentation.

    python examples/offline.py capture --teacher path/or/name --cache kept      # where the teacher fits
    python examples/offline.py train --cache kept --output_dir student          # anywhere; needs no teacher

`capture` may be stopped and started again, and runs on many processes with `accelerate launch`. With files of your own
the same is `hf-distill capture CONFIG.yaml` and `hf-distill train CONFIG.yaml`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from transformers import AutoTokenizer

from hf_distill import CacheTeacher, DistillationArguments, DistillationTrainer, capture, load_training_data

DATA = {"texts": {"name": "python", "share": 0.05}, "max_length": 128}


def main() -> None:
    """Capture, or train from what was captured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    halves = parser.add_subparsers(dest="half", required=True)
    first, second = halves.add_parser("capture"), halves.add_parser("train")
    for half in (first, second):
        half.add_argument("--cache", required=True, help="the folder of what the teacher said")
    first.add_argument("--teacher", required=True, help="a folder or hub name")
    first.add_argument("--k", type=int, default=32, help="log-probabilities to keep of each token")
    second.add_argument("--output_dir", required=True)
    second.add_argument("--max_steps", type=int, default=100)
    options = parser.parse_args()
    if options.half == "capture":
        ask(options.teacher, options.cache, options.k)
    else:
        train(options.cache, options.output_dir, options.max_steps)


def ask(name: str, folder: str, k: int) -> None:
    """Keep what the teacher says of every example."""
    data = load_training_data(DATA, AutoTokenizer.from_pretrained(name), by_domain=False)
    splits = [data.train, data.probe, data.evaluation]
    teacher = CacheTeacher(folder, source=name, k=k)
    start = time.monotonic()
    new = sum(capture(teacher, rows, collator=data.collator) for rows in splits)
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    tokens = sum(len(rows) * DATA["max_length"] for rows in splits)
    print(f"{new} new examples in {time.monotonic() - start:.0f} s; {size / 1e6:.1f} MB, {size / tokens:.0f} B a token")


def train(folder: str, output_dir: str, max_steps: int) -> None:
    """Train a student on it; tokenizer and configuration of the teacher lie in the cache, too."""
    teacher = CacheTeacher(folder)
    data = load_training_data(DATA, teacher.tokenizer, by_domain=False)
    arguments = DistillationArguments(
        output_dir=output_dir,
        max_steps=max_steps,
        learning_rate=3e-3,
        logging_steps=10,
        report_to="none",
        student={"builder": "fresh", "hidden_size": 64, "layers": 2, "heads": 2},
        losses=["task", "forward_kl"],
    )
    trainer = DistillationTrainer(
        args=arguments,
        teacher=teacher,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        data_collator=data.collator,
        processing_class=teacher.tokenizer,
    )
    trainer.train()
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()


if __name__ == "__main__":
    main()
