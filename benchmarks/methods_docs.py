"""docs/methods.md from the experiments' descriptions, the registered options and the results; see `methods.py`."""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from experiments.frame import Experiment, broken, deviation, effect, figures

from hf_distill import Plugins
from hf_distill.plugins.registry import Component

COMMAND = "python benchmarks/methods.py --only --write-docs"
_HEAD = f"""# Methods

What each method does, which options it has, and what it gave in a small experiment on real data: one core, minutes,
students of thousands to hundreds of thousands of parameters. An effect is the mean over the seeds of the differences to
the baseline, positive where the method is better, with their standard deviation. It is *shown* where every seed has the
right sign and the mean exceeds the deviation, and *reversed* where that holds for the wrong sign. A gain that does not
show in so small a student may show in a real one, and the other way round.

*Faithful*: follows the paper or the authors' code; what differs is told in the component's docstring.
*After the paper's description*: parts that the paper leaves open, or that only others tell of, are a reconstruction.

Written by `{COMMAND}`; the figures are from `python benchmarks/methods.py`.

| method | package | evidence | effect | verdict |
|---|---|---|---:|---|"""


def render(known: Mapping[str, Experiment | Exception], report: Mapping[str, Any]) -> str:
    """The page: a table of verdicts, an entry a method, and losses without an experiment.

    Raises:
        Exception: an experiment cannot be imported.
    """
    entries = []
    for name, experiment in known.items():
        if isinstance(experiment, Exception):
            raise experiment
        entries.append((experiment, report["experiments"].get(name)))
    entries.sort(key=lambda pair: (pair[0].package, pair[0].method.lower()))
    packages = {experiment.package for experiment, _ in entries}
    plugins = Plugins([info.name for info in Plugins().installed() if info.distribution in packages])
    lines = [_HEAD, *(_table_row(*pair) for pair in entries)]
    for experiment, result in entries:
        lines += ["", f"## {experiment.method}", "", *_entry(experiment, result, plugins)]
    others = list(_without_experiment(plugins, [experiment for experiment, _ in entries]))
    if others:
        lines += [
            "",
            "## Losses without an experiment",
            "",
            "| loss | package | what it does |",
            "|---|---|---|",
            *others,
        ]
    return "\n".join(lines) + "\n"


def _table_row(experiment: Experiment, result: Mapping[str, Any] | None) -> str:
    link = re.sub(r"[^\w\- ]", "", experiment.method.lower()).replace(" ", "-")
    cells = [f"[{experiment.method}](#{link})", experiment.package, experiment.evidence]
    if broken(experiment, result) is None:
        found = effect(experiment, result or {})
        cells += [f"{found.mean:+.4f} ± {found.spread:.4f}", found.verdict]
    else:
        cells += ["", "not run"]
    return f"| {' | '.join(cells)} |"


def _entry(experiment: Experiment, result: Mapping[str, Any] | None, plugins: Plugins) -> Iterator[str]:
    yield experiment.what
    yield ""
    yield f"- Paper: {experiment.paper}{f', {experiment.reference}' if experiment.reference else ''}"
    yield f"- Evidence: {experiment.evidence}"
    yield f"- Package: `{experiment.package}`"
    yield f"- Needs: {_lower_first(experiment.needs)}"
    yield f"- Expected: {experiment.expects}"
    yield f"- Seen: {_seen(experiment, result)}"
    for component in (_component(plugins, name) for name in experiment.components):
        yield ""
        yield f"Options of the {component.label} `{component.name}`:"
        yield ""
        yield from _options(component)


def _seen(experiment: Experiment, result: Mapping[str, Any] | None) -> str:
    """The figures of all arms, and the verdict."""
    if (problem := broken(experiment, result)) is not None:
        return f"nothing: {problem}"
    assert result is not None, "what was not run is broken"
    found = effect(experiment, result)
    arms = ", ".join(
        f"{arm} {statistics.mean(own):.4f} ± {deviation(own):.4f}"
        for arm in experiment.arms
        for own in [figures(result, arm, experiment.metric)]
    )
    return (
        f"**{found.verdict}**. {experiment.metric}, {experiment.unit} ({experiment.better} is better): {arms}; effect "
        f"{found.mean:+.4f} ± {found.spread:.4f} over {result['config']['seeds']} seeds ({result['date']})."
    )


def _component(plugins: Plugins, described: str) -> Component:
    """The registered component of ``"loss taid"``."""
    kind, _, name = described.rpartition(" ")
    labels = (kind, f"batch {kind}")
    return next(registry for registry in plugins.registries() if registry.label in labels).get(name)


def _options(component: Component) -> Iterator[str]:
    parameters = component.signature.options
    if not parameters:
        yield "none."
        return
    target = component.resolve()
    told: dict[str, str] = {}
    for origin in reversed(inspect.getmro(target)) if inspect.isclass(target) else [target]:
        told |= _described(inspect.cleandoc(origin.__doc__ or ""))
    yield "| option | default | |"
    yield "|---|---|---|"
    for parameter in parameters:
        default = "must be given" if parameter.required else f"`{parameter.default!r}`"
        yield f"| `{parameter.name}` | {default} | {told.get(parameter.name, '').replace('|', '&#124;')} |"


def _described(docstring: str) -> dict[str, str]:
    """What the section ``Args`` of a Google docstring says of each name; ``a, b: text`` says it of both."""
    section = re.search(r"^Args:\n((?:[ ]+.*\n|\n)*)", f"{docstring}\n", re.MULTILINE)
    told: dict[str, str] = {}
    for names, text in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE):
        told |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return told


def _without_experiment(plugins: Plugins, experiments: Iterable[Experiment]) -> Iterator[str]:
    described = {name for experiment in experiments for name in experiment.components}
    packages = {str(info): info.distribution for info in plugins.active.values()}
    for component in plugins.losses:
        if f"loss {component.name}" not in described:
            summary = component.summary().replace("|", "&#124;")
            yield f"| `{component.name}` | {packages[component.package]} | {summary} |"


def _lower_first(text: str) -> str:
    """A sentence as the rest of one, without its full stop; abbreviations keep their capitals."""
    head = text[:1].lower() if text[1:2].islower() or text[1:2] == " " else text[:1]
    return (head + text[1:]).rstrip(".")
