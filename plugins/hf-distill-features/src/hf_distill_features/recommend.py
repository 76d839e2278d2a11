"""``hf-distill recommend FOLDER ...``: which configuration to try first on a new data set.

After the paper's description of AutoDistiller: He et al. 2021, "Distiller: A Systematic Study of Model Distillation
Methods in Natural Language Processing", arXiv:2109.11105. A regression from configuration and data set to the score is
fitted to past runs. The paper's target is the ratio of the student's score to the teacher's; records hold no score of
the teacher, so that the target is the score relative to the mean on its data set.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .predictor import Check, Recommendation

SCORE = "eval_*perplexity"


def recommend(argv: list[str]) -> int:
    """Run ``hf-distill recommend`` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hf-distill recommend",
        description="Rank the configurations of past runs for a data set that none of them was on. A regression is "
        "fitted to their scores; how far it can be trusted is measured on each data set, fitted to the others.",
        epilog="Gains are shares of the mean score on a data set: +5 % is that much better than the average there.",
        allow_abbrev=False,
    )
    parser.add_argument("folders", nargs="+", help="where to look for records (run.json) of `hf-distill train`")
    parser.add_argument("--score", default=SCORE, help=f"metric or pattern of metrics to go by (default: {SCORE})")
    parser.add_argument("--better", choices=("lower", "higher"), help="default: lower for losses and perplexities")
    parser.add_argument("--rows", type=float, help="how many rows the new data set has to train on")
    parser.add_argument("--domains", type=float, help="how many domains it has")
    parser.add_argument("--top", type=int, default=10, help="how many configurations to show (default: 10)")
    options = parser.parse_args(argv)

    from . import predictor
    from .runs import read_runs

    lower = options.better == "lower" or (options.better is None and options.score.endswith(("loss", "perplexity")))
    rows = predictor.tabulate(read_runs(options.folders, options.score), lower_is_better=lower)
    checks = predictor.leave_one_data_set_out(rows)
    found = predictor.recommend(rows, {"rows": options.rows, "domains": options.domains})
    _print(found[: options.top], checks, num_runs=sum(row.runs for row in rows), num_found=len(found))
    return 0


def _print(found: Sequence[Recommendation], checks: Sequence[Check], *, num_runs: int, num_found: int) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    ranked = Table("rank", "predicted gain", "seen gain", "data sets", "configuration (what differs)")
    for rank, recommendation in enumerate(found, 1):
        options = "\n".join(f"{name}: {value}" for name, value in recommendation.configuration.items())
        ranked.add_row(
            str(rank),
            f"{recommendation.predicted:+.1%}",
            f"{recommendation.seen:+.1%}",
            str(recommendation.num_data),
            options,
        )
    console.print(f"{num_runs} runs of {num_found} configurations on {len(checks)} data sets", highlight=False)
    console.print(ranked)
    checked = Table("data set left out", "error of the gains", "regret", "regret at random")
    for check in checks:
        checked.add_row(check.data, f"{check.error:.1%}", f"{check.regret:.1%}", f"{check.random_regret:.1%}")
    means = [fmean(values) for values in zip(*((c.error, c.regret, c.random_regret) for c in checks), strict=True)]
    checked.add_row("mean", *(f"{mean:.1%}" for mean in means), style="bold")
    console.print(checked)
    if means[1] >= means[2]:
        console.print("On data sets left out, this recommendation was no better than a configuration taken at random.")
