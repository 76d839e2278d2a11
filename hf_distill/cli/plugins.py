"""``hf-distill plugins``: what is installed, what is active, and what each active plugin adds."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..plugins.manager import PluginInfo, Plugins
from ..plugins.registry import Component
from .main import PLUGINS_VARIABLE, active_plugins


def plugins(argv: list[str]) -> int:
    """Print the plugins as a table or as JSON, or one component with its options."""
    parser = argparse.ArgumentParser(prog="hf-distill plugins", description="List plugins and what they add.")
    parser.add_argument("component", nargs="?", help="show what this component does and which options it takes")
    parser.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(argv)
    active = active_plugins()
    if options.component:
        found = _describe(active, options.component)
        print(json.dumps(found, indent=2) if options.json else _text(found))
    elif options.json:
        print(json.dumps({"plugins": [_as_json(active, info) for info in _all(active)]}, indent=2))
    else:
        _print_table(active)
    return 0


def _all(active: Plugins) -> list[PluginInfo]:
    """Active plugins and installed ones, sorted by name."""
    return sorted({*active.active.values(), *active.installed()})


def _components(active: Plugins, info: PluginInfo) -> dict[str, list[Component]]:
    """The components that a plugin registered, by kind; kinds without any are left out."""
    found = {
        kind: [component for component in registry if component.package == str(info)]
        for kind, registry in active.registries().items()
    }
    return {kind: components for kind, components in found.items() if components}


def _as_json(active: Plugins, info: PluginInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "distribution": info.distribution,
        "version": info.version,
        "active": info in active.active.values(),
        "components": {
            kind: [component.name for component in components] for kind, components in _components(active, info).items()
        },
    }


def _describe(active: Plugins, name: str) -> list[dict[str, Any]]:
    """What is known of the components called `name`, of whatever kind; imports them."""
    found = [registry.get(name) for registry in active.registries().values() if name in registry]
    if not found:
        raise ValueError(f"no active plugin has a component {name!r}; `hf-distill plugins` lists what there is.")
    return [
        {
            "kind": component.kind,
            "name": component.name,
            "plugin": component.package,
            "summary": component.summary(),
            "options": {
                parameter.name: "required" if parameter.required else repr(parameter.default)
                for parameter in component.parameters()[0]
            },
        }
        for component in found
    ]


def _text(descriptions: list[dict[str, Any]]) -> str:
    lines = []
    for description in descriptions:
        lines += [
            f"{description['kind']} {description['name']}, of {description['plugin']}",
            f"  {description['summary']}",
        ]
        lines += [f"  {name}: {default}" for name, default in description["options"].items()]
    return "\n".join(lines)


def _print_table(active: Plugins) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("plugin", "package", "version", "active", "components")
    for info in _all(active):
        components = "\n".join(
            f"{kind}: {', '.join(component.name for component in components)}"
            for kind, components in _components(active, info).items()
        )
        is_active = info in active.active.values()
        table.add_row(info.name, info.distribution, info.version, "yes" if is_active else "no", components)
    console = Console()
    console.print(table)
    console.print(f"Installed is not active: name plugins in a training's `plugins`, or here in {PLUGINS_VARIABLE}.")
