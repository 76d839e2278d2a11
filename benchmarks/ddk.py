"""DDK against fixed mixtures: how far behind its teacher a student stays in its worst domain, over several seeds.

    python benchmarks/ddk.py --json benchmarks/results/ddk.json --check
    python benchmarks/ddk.py --data lm_domains

All students learn from one teacher by the same losses, start (per seed) from the same weights and see equally many
tokens; only what chooses the data differs. "python": text, teacher and student of ``hf-distill demo``, whose teacher
saw all domains equally often while two thirds of the students' text is source code. "lm_domains": eleven domains of
English, German, French, Romanian, chess and recipes, and a teacher that has seen them, from the folder that
HF_DISTILL_SHARED_DATA names.
"""

from __future__ import annotations

import argparse
import datetime
import gzip
import json
import math
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Threads that wait give up their core: beside other work, spinning ones would starve it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.data.language_modeling import load_packed_text
from hf_distill.demo.command import FULL, arms, teacher_recipe
from hf_distill.demo.report import perplexities
from hf_distill.demo.teacher import read_record, teacher_folder
from hf_distill.drivers.console import quiet_libraries
from hf_distill.drivers.training import run

NATURAL, DDK = "natural", "DDK"
SHARED = Path(os.environ.get("HF_DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
console = Console()


@dataclass(frozen=True)
class Task:
    """What is learned from whom: the fields of a configuration that all students share."""

    common: Mapping[str, Any]
    interval: int
    teacher: Mapping[str, float]  # perplexity by domain


def main() -> int:
    """Run all students, print the table, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=["python", "lm_domains"], default="python")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--kl-weight", type=float, default=5.0, help="of forward KL; cross-entropy has 1")
    parser.add_argument("--steps", type=int, help="optimizer steps of a student; by default those of the demo")
    parser.add_argument("--json", type=Path, help="write the figures here, and a table beside them (.md)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where DDK is not ahead in most seeds")
    args = parser.parse_args()
    quiet_libraries()
    with tempfile.TemporaryDirectory() as folder:
        task = python_task() if args.data == "python" else lm_domains_task(Path(folder))
        results = list(students(task, args, Path(folder) / "student"))
    rows = figures(results)
    ahead = sum(of(results, DDK, seed)["largest"] < of(results, NATURAL, seed)["largest"] for seed in range(args.seeds))
    text = render(results, ahead, args)
    print(text)
    if args.json:
        report = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "arguments": {key: value for key, value in vars(args).items() if key not in ("json", "check")},
            "teacher": dict(task.teacher),
            "results": results,
            "rows": rows,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(text)
    return int(args.check and ahead * 2 <= args.seeds)


def selectors(interval: int) -> dict[str, dict[str, Any] | None]:
    """What chooses the data, by name."""
    ddk = {"name": "ddk", "interval": interval, "max_ratio": 6.0}
    return {
        NATURAL: None,
        "uniform": {"name": "mixture", "weights": "uniform"},
        DDK: ddk,
        "DDK, no smoothing": {**ddk, "factor_smoothing": False},
    }


def students(task: Task, args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Train each student and yield what came of it."""
    losses = [{"name": "task", "weight": 1.0}, {"name": "forward_kl", "weight": args.kl_weight}]
    for seed in range(args.seeds):
        for name, selector in selectors(task.interval).items():
            student = {**task.common["student"], "seed": seed}
            config = {**task.common, "student": student, "seed": seed, "output_dir": str(folder), "losses": losses}
            config |= {"plugins": ["ddk"], "selector": selector}
            if args.steps:
                config["max_steps"] = args.steps
            run(config, title=f"{name}, seed {seed}", console=console, describe=False)
            found = perplexities(read_record(folder)["metrics"])
            ratios = {domain: found[domain] / task.teacher[domain] for domain in found}
            yield {
                "selector": name,
                "seed": seed,
                "largest": max(ratios.values()),
                "where": max(ratios, key=lambda domain: ratios[domain]),
                "mean": statistics.mean(ratios.values()),
                "sum_log": sum(math.log(value) for value in found.values()),
                "perplexities": found,
            }


def python_task() -> Task:
    """The demo's."""
    folder = teacher_folder(teacher_recipe(FULL), console)
    config = {**arms(FULL, folder, seed=0)["KD"], "eval_strategy": "no"}
    return Task(common=config, interval=FULL.interval, teacher=perplexities(read_record(folder)["metrics"]))


def lm_domains_task(folder: Path) -> Task:
    """Eleven domains at their natural sizes, with the teacher that lies beside them."""
    if not (SHARED / "lm_domains").is_dir():
        raise SystemExit(f"There is no {SHARED / 'lm_domains'}; set HF_DISTILL_SHARED_DATA.")
    rows: dict[str, list[str]] = {"train": [], "test": []}
    for path in sorted((SHARED / "lm_domains").glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                rows[row["split"]].append(json.dumps({"text": row["text"], "domain": path.name.split(".")[0]}))
    for split, written in rows.items():
        (folder / f"{split}.jsonl").write_text("\n".join(written) + "\n", encoding="utf-8")
    data = {
        "data_files": {split: str(folder / f"{split}.jsonl") for split in rows},
        "test_split": "test",
        "max_length": 128,
        "probe_rows": 24,
        "test_rows": 48,
    }
    teacher = SHARED / "teacher_lm"
    config = {**arms(FULL, teacher, seed=0)["KD"], "eval_strategy": "no", "data": data}
    config["teacher"] = {"model": str(teacher), "dtype": "float32"}  # it is kept in half precision
    return Task(common=config, interval=FULL.interval, teacher=measure(teacher, data, folder))


def measure(model: Path, data: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """The perplexity of a finished model on each domain of the test split."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    test = load_packed_text(data, tokenizer)["test"]
    by_domain = {
        domain: test.filter(lambda row, domain=domain: row["domain"] == domain)
        for domain in sorted(set(test["domain"]))
    }
    args = DistillationArguments(
        output_dir=str(folder), losses=["task"], report_to="none", disable_tqdm=True, dataloader_pin_memory=False
    )
    trainer = DistillationTrainer(
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args,
        eval_dataset=by_domain,
        data_collator=transformers.default_data_collator,
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return perplexities(trainer.evaluate())


def of(results: Sequence[Mapping[str, Any]], selector: str, seed: int) -> Mapping[str, Any]:
    """The result of one student."""
    return next(one for one in results if (one["selector"], one["seed"]) == (selector, seed))


def figures(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row per figure: what, figure, unit, and what to hold it against, the natural mixture's."""
    kinds = {
        "largest": ("largest ratio", "student's perplexity / teacher's"),
        "sum_log": ("sum of log-perplexities", "nats"),
    }
    return [
        {
            "what": f"{one['selector']}, seed {one['seed']}: {what}",
            "figure": round(one[key], 4),
            "unit": unit,
            "against": round(of(results, NATURAL, one["seed"])[key], 4),
        }
        for one in results
        for key, (what, unit) in kinds.items()
    ]


def render(results: Sequence[Mapping[str, Any]], ahead: int, args: argparse.Namespace) -> str:
    """The table in Markdown."""
    lines = [
        f"DDK on {args.data}: {datetime.date.today().isoformat()}, {machine()}",
        "",
        f"`python benchmarks/ddk.py {' '.join(part for part in sys.argv[1:] if not part.endswith('.json'))}`",
        "",
        "| data chosen by | largest ratio, by seed | mean | worst domain | mean ratio | sum of log-perplexities |",
        "|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(one["selector"] for one in results):
        own = [one for one in results if one["selector"] == name]
        largest = [one["largest"] for one in own]
        cells = [
            name,
            ", ".join(f"{value:.3f}" for value in largest),
            f"{statistics.mean(largest):.3f}",
            ", ".join(dict.fromkeys(one["where"] for one in own)),
            f"{statistics.mean(one['mean'] for one in own):.3f}",
            f"{statistics.mean(one['sum_log'] for one in own):.3f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    held = f"DDK's largest ratio is smaller than the natural mixture's in {ahead} of {args.seeds} seeds."
    return "\n".join([*lines, "", held, ""])


def machine() -> str:
    """Where and with what this ran."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
