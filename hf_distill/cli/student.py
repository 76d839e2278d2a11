"""``hf-distill student build|list|describe``: students from teachers, before anything is trained.

hf-distill student list
hf-distill student build big-model student --builder layer_drop -o layers=6
hf-distill student describe big-model --builder layer_drop -o layers=6
hf-distill student describe big-model --student student --student other-student
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .main import PLUGINS_VARIABLE, active_plugins

if TYPE_CHECKING:
    from ..students import StudentBuild

RECORD = "student_build.json"
_BUSY = 3


def student(argv: list[str]) -> int:
    """Run ``hf-distill student`` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hf-distill student", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="build a student and save it, with what became of which tensor")
    build.add_argument("teacher", help="a folder or hub name")
    build.add_argument("output", type=Path, help="a folder that is not there yet, or is empty")
    listing = actions.add_parser("list", help="builders and transforms, with their options")
    describe = actions.add_parser("describe", help="what students would cost, beside their teacher, on this machine")
    describe.add_argument("teacher", help="a folder or hub name")
    describe.add_argument("--student", action="append", default=[], help="a student that is built; may be repeated")
    describe.add_argument("--length", type=int, default=128, help="tokens of a sequence (default: 128)")
    describe.add_argument("--batch-size", type=int, default=8, help="sequences at once, for the throughput")
    describe.add_argument("--repeats", type=int, default=10, help="runs of which the median is taken")
    describe.add_argument("--no-measure", action="store_true", help="count, and run nothing")
    for action in (build, describe):
        default = "layer_drop" if action is build else None
        action.add_argument("--builder", default=default, help="see `hf-distill student list` (default: layer_drop)")
        action.add_argument(
            *("-o", "--option"), action="append", default=[], metavar="NAME=VALUE", help="of the builder, as JSON"
        )
        action.add_argument("--dtype", default="auto", help="of the weights (default: that of the checkpoint)")
    for action in (listing, describe):
        action.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(argv)
    commands: dict[str, Callable[[argparse.Namespace], None]] = {"build": _build, "list": _list, "describe": _describe}
    commands[options.action](options)
    return 0


def _build(options: argparse.Namespace) -> None:
    if options.output.exists() and any(options.output.iterdir()):
        raise ValueError(f"{options.output} is not empty; give a folder that is not there yet.")
    built = _make(options)
    built.model.save_pretrained(options.output)
    from ..teachers.local import load_tokenizer

    tokenizer = built.tokenizer or load_tokenizer(options.teacher)
    if tokenizer is not None:
        tokenizer.save_pretrained(options.output)
    mapping = {
        name: {"operator": source.operator, "tensors": source.tensors, "part": source.part}
        for name, source in built.mapping.items()
    }
    record = json.dumps({**built.record, "mapping": mapping}, indent=1)
    (options.output / RECORD).write_text(record + "\n", encoding="utf-8")
    counts = built.record["num_parameters"]
    print(
        f"saved a student of {counts['student']:,} parameters ({counts['student'] / counts['teacher']:.0%} of the "
        f"teacher's) in {options.output}; {RECORD} there says what each tensor was made from"
    )


def _make(options: argparse.Namespace) -> StudentBuild:
    from ..drivers.console import quiet_libraries

    quiet_libraries()
    from ..students import build_student

    values = _values(options.option)
    return build_student(options.teacher, options.builder, plugins=active_plugins(), dtype=options.dtype, **values)


def _values(pairs: Sequence[str]) -> dict[str, Any]:
    """Options from the command line; what is no JSON is text."""
    values = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"The option {pair!r} is not NAME=VALUE, such as layers=6 or 'layers=[0, 3]'.")
        try:
            values[name] = json.loads(value)
        except json.JSONDecodeError:
            values[name] = value
    return values


def _list(options: argparse.Namespace) -> None:
    found: list[dict[str, Any]] = [
        {
            "kind": component.kind,
            "name": component.name,
            "plugin": component.package,
            "summary": component.summary(),
            "options": {p.name: "required" if p.required else repr(p.default) for p in component.signature.options},
        }
        for component in active_plugins().available()[0]
        if component.family == "students"
    ]
    if options.json:
        print(json.dumps(found, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("kind", "name", "plugin", "what it does", "options", show_lines=True)
    for row in found:
        listed = "\n".join(f"{name}: {default}" for name, default in row["options"].items())
        table.add_row(row["kind"], row["name"], row["plugin"], row["summary"], listed)
    Console().print(table)


def _describe(options: argparse.Namespace) -> None:
    if not options.student and options.builder is None:
        options.builder = "layer_drop"
    if options.builder is None and options.option:
        raise ValueError("-o is an option of a builder; name one with --builder.")
    made = {} if options.builder is None else {_title(options): _make(options).model}
    from ..drivers.console import quiet_libraries

    quiet_libraries()
    from dataclasses import asdict

    from ..students import load_student, open_weights
    from ..students.cost import model_cost

    sizes = {"length": options.length, "batch_size": options.batch_size, "repeats": options.repeats}

    def load(name: str) -> Any:
        if options.no_measure:
            return open_weights(name, dtype=options.dtype)[0]
        named = active_plugins() if os.environ.get(PLUGINS_VARIABLE) else None  # or those that the student names
        return load_student(name, plugins=named, dtype=options.dtype)

    sources: dict[str, Callable[[], Any]] = {options.teacher: partial(load, options.teacher)}
    sources |= {title: partial(made.get, title) for title in made}
    sources |= {name: partial(load, name) for name in options.student}
    # One at a time, so that no model waits in memory while another is measured.
    costs = {
        name: asdict(model_cost(source(), measure=not options.no_measure, **sizes)) for name, source in sources.items()
    }
    if options.json:
        print(json.dumps(costs, indent=2))
    else:
        _print_costs(costs, options)


def _title(options: argparse.Namespace) -> str:
    return " ".join([str(options.builder), *options.option])


def _print_costs(costs: Mapping[str, Mapping[str, Any]], options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table

    teacher = costs[options.teacher]
    rows: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "parameters": lambda cost: _with_share(f"{cost['parameters']:,}", cost, teacher, "parameters"),
        "on disk": lambda cost: _with_share(f"{cost['bytes'] / 2**20:,.1f} MiB", cost, teacher, "bytes"),
        "FLOPs per token": lambda cost: _with_share(_flops(cost), cost, teacher, "flops_per_token"),
    }
    if not options.no_measure:
        rows |= {
            "latency": lambda cost: f"{1000 * cost['latency']:.1f} ms",
            "times as fast": lambda cost: f"{teacher['latency'] / cost['latency']:.2f}",
            "tokens per second": lambda cost: f"{cost['tokens_per_second']:,.0f}",
            "times as many": lambda cost: f"{cost['tokens_per_second'] / teacher['tokens_per_second']:.2f}",
        }
    table = Table("", *costs)
    for title, show in rows.items():
        table.add_row(title, *map(show, costs.values()))
    console = Console()
    console.print(table)
    if options.no_measure:
        return
    console.print(
        f"Latency: one sequence of {options.length} tokens; tokens per second: {options.batch_size} at once. Forward "
        "passes, medians on this machine. Of images, one is a token.",
        soft_wrap=True,
    )
    if (spread := max(cost["spread"] for cost in costs.values())) > _BUSY:
        console.print(
            f"Runs of one model differ by a factor of {spread:.0f}: this machine is busy, and what was measured on it "
            "is of little worth. Try again, or with more --repeats.",
            style="yellow",
            soft_wrap=True,
        )


def _flops(cost: Mapping[str, Any]) -> str:
    return "not countable" if cost["flops_per_token"] is None else f"{cost['flops_per_token']:.3g}"


def _with_share(text: str, cost: Mapping[str, Any], teacher: Mapping[str, Any], what: str) -> str:
    if cost is teacher or cost[what] is None or not teacher[what]:
        return text
    return f"{text} ({cost[what] / teacher[what]:.0%})"
