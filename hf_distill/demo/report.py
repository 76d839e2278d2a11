"""What the demo shows at its end: one table, one picture, and how to use the student."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM

from .teacher import read_record

Run = dict[str, Any]


def report(teacher: Path, students: Mapping[str, Path], output_dir: Path, console: Console) -> None:
    """Print the table and draw the picture.

    Args:
        teacher: the teacher's folder.
        students: folders of the finished runs, by title.
        output_dir: where ``results.json`` and ``report.png`` go.
        console: where the table goes.
    """
    folders = {"teacher": teacher, **students}
    runs = {title: summarise(folder) for title, folder in folders.items()}
    for title, speed in tokens_per_second(folders).items():
        runs[title]["tokens_per_second"] = speed
    for title in students:
        _compare(runs[title], runs["teacher"])
    (output_dir / "results.json").write_text(json.dumps(runs, indent=1) + "\n", encoding="utf-8")
    console.print(_table(runs))
    *_, natural, selected = students
    changes = ", ".join(
        f"{domain} {value / runs[natural]['perplexities'][domain] - 1:+.0%}"
        for domain, value in runs[selected]["perplexities"].items()
    )
    console.print(f"from {natural} to {selected}, perplexities change by: {changes}", highlight=False)
    console.print(
        "worst: the largest of a student's perplexities over the teacher's, and where; bold: the best student.\n"
        "One seed shows little; benchmarks/ddk.py compares over several.",
        style="dim",
    )
    if find_spec("matplotlib") is None:
        console.print("No picture: it needs matplotlib (pip install 'hf-distill[report]').", markup=False)
        return
    from .picture import draw

    draw({title: runs[title] for title in students}, output_dir / "report.png")
    console.print(f"picture: {output_dir / 'report.png'}", highlight=False, soft_wrap=True)


def print_usage(folder: Path, console: Console) -> None:
    """Print the lines of Python that load and use a student."""
    lines = usage(folder)
    console.print("\nThe student, in Python:")
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    console.print(f"\nThe same again, with other options: hf-distill train {folder / 'config.yaml'}", soft_wrap=True)


def usage(folder: Path) -> list[str]:
    """Three lines of Python that load the student in `folder` and let it write."""
    return [
        "from transformers import AutoModelForCausalLM as Model, AutoTokenizer as Tokenizer",
        f'student, tokenizer = (kind.from_pretrained("{folder.as_posix()}") for kind in (Model, Tokenizer))',
        'print(tokenizer.decode(student.generate(**tokenizer("def ", return_tensors="pt"), max_new_tokens=40)[0]))',
    ]


def summarise(folder: Path) -> Run:
    """What the table and the picture need of a finished run.

    Returns:
        num_parameters, perplexities by domain (of the last evaluation), history (perplexities by
        step) and mixtures (shares of the domains from a step on).
    """
    record = read_record(folder)
    history: dict[int, dict[str, float]] = {}
    total = sum(record["domains"].values())
    mixtures = {0: {domain: count / total for domain, count in record["domains"].items()}}
    for entry in record["log_history"]:
        if found := perplexities(entry):
            history.setdefault(entry["step"], {}).update(found)
        if found := _by_domain(entry, "mixture/", ""):
            mixtures[entry["step"]] = found
    last = max(history)
    mixtures[last] = mixtures[max(step for step in mixtures if step < last)]  # none is drawn from after the last step
    return {
        "num_parameters": record["num_parameters"],
        "perplexities": perplexities(record["metrics"]),
        "history": history,
        "mixtures": mixtures,
    }


def tokens_per_second(
    folders: Mapping[str, Path], *, batch_size: int = 8, length: int = 128, rounds: int = 9
) -> dict[str, float]:
    """How many tokens each model reads in a second: the median over rounds in which all take turns."""
    models = {title: AutoModelForCausalLM.from_pretrained(folder).eval() for title, folder in folders.items()}
    tokens = torch.arange(batch_size * length).reshape(batch_size, length)
    seconds: dict[str, list[float]] = {title: [] for title in models}
    with torch.no_grad():
        for _ in range(rounds):
            for title, model in models.items():
                start = time.perf_counter()
                model(input_ids=tokens % model.config.vocab_size, use_cache=False)
                seconds[title].append(time.perf_counter() - start)
    return {title: batch_size * length / statistics.median(times) for title, times in seconds.items()}


def perplexities(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The perplexity on each domain, from what an evaluation of several domains gave."""
    return _by_domain(metrics, "eval_", "_perplexity")


def _by_domain(figures: Mapping[str, Any], start: str, end: str) -> dict[str, float]:
    return {
        name.removeprefix(start).removesuffix(end): value
        for name, value in figures.items()
        if name.startswith(start) and name.endswith(end)
    }


def _compare(student: Run, teacher: Run) -> None:
    """Add the student's perplexities over the teacher's: at the end, and by step."""

    def over_teacher(perplexities: Mapping[str, float]) -> dict[str, float]:
        return {domain: value / teacher["perplexities"][domain] for domain, value in perplexities.items()}

    student["ratios"] = over_teacher(student["perplexities"])
    student["gaps"] = {step: over_teacher(perplexities) for step, perplexities in student.pop("history").items()}


def _table(runs: Mapping[str, Run]) -> Table:
    table = Table(  # narrow enough for 80 columns
        title="perplexity on the test split, by domain",
        title_justify="left",
        box=SIMPLE_HEAD,
        header_style="",
        padding=0,
    )
    for heading in ("", *runs["teacher"]["perplexities"], "worst", "size", "tokens/s"):
        table.add_column(heading, justify="left" if not heading else "right", no_wrap=True)
    students = [run for title, run in runs.items() if title != "teacher"]
    best = {domain: min(run["perplexities"][domain] for run in students) for domain in runs["teacher"]["perplexities"]}
    smallest = min(max(run["ratios"].values()) for run in students)
    for title, run in runs.items():
        cells = [_emphasised(value, best[domain], ".1f") for domain, value in run["perplexities"].items()]
        gap = ""
        if "ratios" in run:
            domain, ratio = max(run["ratios"].items(), key=lambda item: item[1])
            gap = f"{_emphasised(ratio, smallest, '.2f')}x {domain}"
        table.add_row(title, *cells, gap, f"{run['num_parameters'] / 1e6:.2f}M", f"{run['tokens_per_second']:,.0f}")
    return table


def _emphasised(value: float, best: float, form: str) -> str:
    return f"[bold]{value:{form}}[/bold]" if value == best else f"{value:{form}}"
