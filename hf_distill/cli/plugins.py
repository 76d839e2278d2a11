"""``hf-distill plugins``: what is installed, and what each plugin offers."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ..plugins.manager import Plugins
from ..plugins.registry import Component
from .main import active_plugins


def plugins(argv: list[str]) -> int:
    """Print what plugins offer: as a table, a line each for programs, or as JSON; or one component with its options."""
    parser = argparse.ArgumentParser(prog="hf-distill plugins", description="List plugins and what they offer.")
    parser.add_argument("component", nargs="?", help="show what this component does and which options it takes")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(argv)
    found = active_plugins()
    components, broken = found.available()
    if options.component:
        descriptions = [_describe(one) for one in components if one.name == options.component]
        if not descriptions:
            raise ValueError(
                f"no plugin has a component {options.component!r}; `hf-distill plugins` lists what there is."
            )
        print(json.dumps(descriptions, indent=2) if options.json else _text(descriptions))
    elif options.json:
        print(json.dumps({"plugins": _as_json(found, components)}, indent=2))
    elif sys.stdout.isatty():
        _print_table(found, components)
    else:
        for one in components:
            print(one.family, one.kind, one.name, one.package, sep="\t")
    for error in broken.values():
        print(error, file=sys.stderr)
    return 0


def _as_json(found: Plugins, components: list[Component]) -> list[dict[str, Any]]:
    rows = []
    for info in sorted({*found.active.values(), *found.installed()}):
        families: dict[str, list[str]] = {}
        for one in components:
            if one.package == str(info):
                families.setdefault(one.family, []).append(one.name)
        rows.append(
            {"name": info.name, "distribution": info.distribution, "version": info.version, "components": families}
        )
    return rows


def _describe(component: Component) -> dict[str, Any]:
    """What is known of a component; imports it."""
    return {
        "kind": component.label or component.kind,
        "name": component.name,
        "plugin": component.package,
        "summary": component.summary(),
        "options": {
            option.name: "required" if option.required else repr(option.default)
            for option in component.signature.options
        },
    }


def _text(descriptions: list[dict[str, Any]]) -> str:
    lines = []
    for description in descriptions:
        lines += [
            f"{description['kind']} {description['name']}, of {description['plugin']}",
            f"  {description['summary']}",
        ]
        lines += [f"  {name}: {default}" for name, default in description["options"].items()]
    return "\n".join(lines)


def _print_table(found: Plugins, components: list[Component]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("plugin", "package", "version", "components", show_lines=True)
    for row in _as_json(found, components):
        families = "\n".join(f"{family}: {', '.join(names)}" for family, names in row["components"].items())
        table.add_row(row["name"], row["distribution"], row["version"], families)
    console = Console()
    console.print(table)
    console.print("Name a component where you need it: the plugin that has it is active then, and no other.")
