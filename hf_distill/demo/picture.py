"""The demo's picture: for each student how far it is behind its teacher, and what it was trained on, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

# Told apart by people who see colours differently (Okabe and Ito 2008), and in grey by their labels.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def draw(runs: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw a column for each run.

    Args:
        runs: by title, with ``gaps`` and ``mixtures`` by step and domain, as `demo_report.summarise` gives them.
        path: of the PNG.
    """
    domains = sorted(next(iter(runs.values()))["ratios"])
    figure = Figure(figsize=(4.2 * len(runs), 6.4), layout="constrained")
    axes = figure.subplots(2, len(runs), sharex=True, sharey="row", squeeze=False)
    for column, (title, run) in enumerate(runs.items()):
        above, below = axes[0, column], axes[1, column]
        above.set_title(title, loc="left", fontweight="bold")
        _lines(above, run["gaps"], domains)
        above.set_yscale("log")
        _lines(below, run["mixtures"], domains, drawstyle="steps-post")
        below.set_ylim(bottom=0)
        below.set_xlabel("optimizer steps")
    _ticks(axes[0, 0])
    axes[1, 0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes[0, 0].set_ylabel("student's perplexity / teacher's")
    axes[1, 0].set_ylabel("share of the training data")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="0.9", linewidth=0.8)
        axis.set_axisbelow(True)
    for column, run in enumerate(runs.values()):
        _label(axes[0, column], _last(run["gaps"]), domains, "{:.1f}x")
        _label(axes[1, column], _last(run["mixtures"]), domains, "{:.0%}")
    figure.savefig(path, dpi=150)


def _lines(axis: Axes, by_step: Mapping[int, Mapping[str, float]], domains: Sequence[str], **style: Any) -> None:
    steps = sorted(by_step)
    for domain, colour in zip(domains, COLOURS, strict=False):
        axis.plot(steps, [by_step[step][domain] for step in steps], color=colour, linewidth=2, **style)


def _last(by_step: Mapping[int, Mapping[str, float]]) -> Mapping[str, float]:
    return by_step[max(by_step)]


def _ticks(axis: Axes) -> None:
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axis.yaxis.set_minor_locator(NullLocator())


def _label(axis: Axes, values: Mapping[str, float], domains: Sequence[str], form: str) -> None:
    """Name each line at its end, moved apart where two would overlap."""
    transform = axis.transData
    bottom, top = axis.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    heights = {domain: float(transform.transform((0, values[domain]))[1]) for domain in domains}
    apart = 0.065 * (top - bottom)
    placed = float("-inf")
    for domain in sorted(domains, key=lambda name: heights[name]):
        placed = max(heights[domain], placed + apart)
        axis.annotate(
            f"{domain} {form.format(values[domain])}",
            (1.02, (placed - bottom) / (top - bottom)),
            xycoords="axes fraction",
            color=COLOURS[domains.index(domain)],
            va="center",
            fontsize=9,
        )
