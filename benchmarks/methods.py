"""Every method against its baseline on real data: what the paper leads to expect, and what is seen here.

    python benchmarks/methods.py                         # all experiments, three seeds each, one core
    python benchmarks/methods.py --only taid jsd         # these; the results of the others stay as they are
    python benchmarks/methods.py --only                  # none: the table of what was found before
    python benchmarks/methods.py --only --write-docs     # docs/methods.md from the results

An experiment is a file in `experiments/`. Its arms get the same data, budget and seeds; the effect is the mean over the
seeds of the paired differences, positive where the method is better, with their standard deviation. It is "shown" where
every seed has the right sign and the mean exceeds the deviation. A gain that does not show is a result and stays in the
table. Results are kept in results/methods.json, with a table beside it, and are replaced experiment by experiment.
Arms that are alike are run once per process, so the seconds of an experiment depend on what ran before it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import os
import platform
import statistics
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from experiments.frame import Experiment, broken, deviation, effect, experiment_names, figures, load
from rich.console import Console

RESULTS = Path(__file__).parent / "results" / "methods.json"
DOCS = Path(__file__).parents[1] / "docs" / "methods.md"
TITLES = {"methods.py": "Methods against their baselines", "students.py": "Student builders against their baselines"}
PACKAGES = ("torch", "transformers")
console = Console()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the experiments that were asked for, keep and print the results, and give the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", metavar="NAME", help="experiments to run, by the names of their files")
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where results are kept; a table goes beside it")
    parser.add_argument("--check", action="store_true", help="exit with 1 where an experiment is broken or incomplete")
    parser.add_argument("--write-docs", action="store_true", help=f"write docs/{DOCS.name} from the results")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    known = load(experiment_names())
    if unknown := sorted(set(args.only or ()) - known.keys()):
        parser.error(f"there is no experiment {unknown[0]!r}; there are {', '.join(known)}")
    for name in known if args.only is None else args.only:
        console.rule(name)
        result = run(known[name], args.seeds)
        report = read(args.json)  # only now: other experiments may have been run meanwhile
        report["experiments"][name] = result
        write(report, known, args.json)
    report = read(args.json)
    print(table(report, known))
    if args.write_docs:
        from methods_docs import render

        DOCS.parent.mkdir(exist_ok=True)
        DOCS.write_text(render(known, report), encoding="utf-8")
    found = {name: problem for name in known if (problem := broken(known[name], report["experiments"].get(name)))}
    for name, problem in found.items():
        console.print(f"{name}: {problem}", style="red", highlight=False)
    return int(args.check and bool(found))


def run(experiment: Experiment | Exception, num_seeds: int) -> dict[str, Any]:
    """All arms of one experiment for all seeds: figures by arm, and where and when they were found."""
    start = time.perf_counter()
    values: dict[str, list[dict[str, float]]] = {}
    error = None
    try:
        if isinstance(experiment, Exception):
            raise experiment
        if absent := experiment.absent_data():
            raise FileNotFoundError(f"no shared data {', '.join(absent)}; set HF_DISTILL_SHARED_DATA to its folder")
        for seed in range(num_seeds):
            for arm, function in experiment.arms.items():
                measured = {key: float(value) for key, value in function(seed).items()}
                values.setdefault(arm, []).append(measured)
                console.print(f"seed {seed}, {arm}: {measured[experiment.metric]:.4f}", highlight=False)
    except Exception as problem:  # the other experiments go on
        traceback.print_exception(problem)
        error = f"{type(problem).__name__}: {problem}"
    return {
        "values": values,
        "error": error,
        "seconds": round(time.perf_counter() - start, 1),
        "date": datetime.date.today().isoformat(),
        "hardware": f"{_processor()}, {os.cpu_count()} cores, shared with other work",
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers")},
        },
        "config": {"seeds": num_seeds, "threads": torch.get_num_threads()},
    }


def read(path: Path) -> dict[str, Any]:
    """The results so far."""
    if not path.exists():
        return {"experiments": {}}
    report: dict[str, Any] = json.loads(path.read_text())
    return report


def write(
    report: dict[str, Any], known: Mapping[str, Experiment | Exception], path: Path, *, script: str = "methods.py"
) -> None:
    """Keep the results, the rows made of them, and the table; results whose experiment is gone go, too."""
    report["experiments"] = {name: report["experiments"][name] for name in known if name in report["experiments"]}
    report["rows"] = [row for name in report["experiments"] for row in rows(known[name], report["experiments"][name])]
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(report, known, script=script))


def rows(experiment: Experiment | Exception, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What, figure, unit, and what to hold it against (the baseline's); nothing where the experiment is broken."""
    if broken(experiment, result) is not None:
        return []
    assert isinstance(experiment, Experiment), "what cannot be imported is broken"
    found = effect(experiment, result)
    return [
        {
            "what": f"{experiment.arm}: {experiment.metric}",
            "figure": round(statistics.mean(figures(result, experiment.arm, experiment.metric)), 4),
            "unit": experiment.unit,
            "against": round(statistics.mean(figures(result, experiment.baseline, experiment.metric)), 4),
            "effect": round(found.mean, 4),
            "spread": round(found.spread, 4) if math.isfinite(found.spread) else None,  # with one seed
            "verdict": found.verdict,
        }
    ]


def table(report: Mapping[str, Any], known: Mapping[str, Experiment | Exception], *, script: str = "methods.py") -> str:
    """All results in Markdown."""
    results = report["experiments"]
    dates = sorted({result["date"] for result in results.values()})
    machines = dict.fromkeys(
        f"{result['hardware']}; {', '.join(f'{k} {v}' for k, v in result['versions'].items())}"
        for result in results.values()
    )
    lines = [
        f"# {TITLES[script]}",
        "",
        f"{' to '.join(dict.fromkeys([dates[0], dates[-1]])) if dates else 'Nothing was run yet'}. "
        f"{' / '.join(machines)}. One thread. Made by `python benchmarks/{script}`; how is told in its first lines.",
        "",
        "| method | expected | figure | baseline | with the method | effect | verdict | seconds |",
        "|---|---|---|---:|---:|---:|---|---:|",
        *(table_row(known[name], name, results[name]) for name in known if name in results),
    ]
    return "\n".join(lines) + "\n"


def table_row(experiment: Experiment | Exception, name: str, result: Mapping[str, Any]) -> str:
    """One experiment's row."""
    if (problem := broken(experiment, result)) is not None:
        return f"| {name} | | | | | | **broken**: {' '.join(problem.split())} | {result['seconds']:.0f} |"
    assert isinstance(experiment, Experiment), "what cannot be imported is broken"
    found = effect(experiment, result)
    arms = [figures(result, arm, experiment.metric) for arm in (experiment.baseline, experiment.arm)]
    cells = [
        experiment.method,
        experiment.expects,
        f"{experiment.metric} ({experiment.unit}; {experiment.better} is better)",
        *(f"{statistics.mean(own):.4f} ± {deviation(own):.4f}" for own in arms),
        f"{found.mean:+.4f} ± {found.spread:.4f}",
        found.verdict,
        f"{result['seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit(main())
