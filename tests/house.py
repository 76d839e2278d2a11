"""The rooms of hf_distill, the floors that they stand on, and who imports whom; the tests of imports read it.

    python tests/house.py    # rooms, floors, arrows between rooms, and lines, as they are

The rooms and floors are those of the table in docs/architecture.md. What counts as an import: every statement, also
inside of functions; a public name of the package, which imports its module when it is used (``from hf_distill import
DistillationTrainer``, ``hf_distill.DistillationTrainer``); and a module that is named in a string by itself
(``import_module("hf_distill.trainer")``, ``register("x", "hf_distill.cli.train:train")``).
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = ROOT / "hf_distill"
PAGE = ROOT / "docs" / "architecture.md"
WINGS = ("cache", "serving", "rounds", "demo", "testing")

_ROW = re.compile(r"^\| (\d+) \| `(\w+)` \| (.+?) \| (.+?) \|$", re.MULTILINE)
_NAMED = re.compile(r"(hf_distill(?:\.\w+)+)(?::\w+)?")


@dataclass(frozen=True)
class Place:
    """Where a module stands."""

    room: str
    floor: int


@dataclass(frozen=True)
class Import:
    """One import; `kind` is "statement", "type" (for type checkers only) or "string"."""

    target: str
    kind: str


@functools.cache
def plan() -> dict[str, Place]:
    """The place of every module that the table of the architecture page names, ``hf_distill.`` left out."""
    places: dict[str, Place] = {}
    for floor, room, modules, _ in _ROW.findall(PAGE.read_text()):
        for module in re.findall(r"\w+", modules):
            name = module if room == "root" else f"{room}.{module}"
            assert name not in places, f"{name} stands twice in {PAGE.name}"
            places[name] = Place(module if room == "root" else room, int(floor))
        if room != "root":
            places[room] = Place(room, int(floor))  # its __init__
    return places


@functools.cache
def modules() -> dict[str, Path]:
    """Every module of the core by name, ``hf_distill.`` left out; the package itself is not among them."""
    found = {}
    for path in CORE.rglob("*.py"):
        parts = path.relative_to(CORE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found[""]
    return found


@functools.cache
def public_names() -> dict[str, str]:
    """The module of each public name."""
    tree = ast.parse((CORE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    found = {
        alias.name: str(node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    return {**found, "hookimpl": "hookspecs"}


def imports(name: str, source: str) -> set[Import]:
    """What the module `name` with this source imports from the core."""
    tree = ast.parse(source)
    for_types = {
        child
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    in_docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    is_package = name in modules() and modules()[name].name == "__init__.py"
    package = ["hf_distill", *name.split(".")][: None if is_package else -1]
    found = set()
    for node in ast.walk(tree):
        kind = "type" if node in for_types else "statement"
        if isinstance(node, ast.Constant) and node not in in_docstrings:
            targets = _named_in_string(node, package)
            kind = "string"
        else:
            targets = _named_in_statement(node, package)
        found |= {Import(target, kind) for target in targets}
    return {one for one in found if one.target != name}


def _named_in_string(node: ast.Constant, package: list[str]) -> Iterator[str]:
    text = node.value if isinstance(node.value, str) else ""
    if text.startswith(".") and re.fullmatch(r"\.+\w+(\.\w+)*", text):
        level = len(text) - len(text.lstrip("."))
        text = ".".join([*package[: len(package) - level + 1], text.lstrip(".")])
    if match := _NAMED.fullmatch(text):
        yield from _home(match[1].split(".")[1:])


def _named_in_statement(node: ast.AST, package: list[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            if alias.name.startswith("hf_distill."):
                yield from _home(alias.name.split(".")[1:])
    elif isinstance(node, ast.ImportFrom):
        base = package[: len(package) - node.level + 1] if node.level else []
        parts = [*base, *(node.module or "").split(".")] if node.module else base
        if parts[:1] == ["hf_distill"]:
            for alias in node.names:
                yield from _home([*parts[1:], alias.name])
    elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hf_distill":
        yield from _home([node.attr])


def _home(parts: list[str]) -> Iterator[str]:
    """The module that ``hf_distill.<parts>`` stands in; nothing for what is no module and no public name."""
    for end in range(len(parts), 0, -1):
        if (module := ".".join(parts[:end])) in modules():
            yield module
            return
    if parts and parts[0] in public_names():
        yield public_names()[parts[0]]
    elif parts:
        yield "."  # something else of the package itself, which imports the whole of it


def breaches(name: str, source: str) -> list[str]:
    """Imports of a module that go up, or to another room of the same floor; those for type checkers are left out."""
    here = plan()[name]
    found = []
    for one in sorted(imports(name, source), key=lambda one: one.target):
        there = plan().get(one.target)
        if one.kind == "type":
            continue
        if there is None:
            found.append(f"{name} imports {'the package itself' if one.target == '.' else one.target}")
        elif there.room != here.room and there.floor >= here.floor:
            found.append(f"{name} (floor {here.floor}) imports {one.target} (floor {there.floor})")
    return found


def arrows() -> set[tuple[str, str]]:
    """Which room imports which, registrations (strings) left out."""
    return {
        (plan()[name].room, plan()[one.target].room)
        for name, path in modules().items()
        for one in imports(name, path.read_text())
        if one.kind == "statement" and plan()[name].room != plan()[one.target].room
    }


def main() -> None:
    """Print the house."""
    rooms = {place.room: place.floor for place in plan().values()}
    lines = dict.fromkeys(rooms, 0)
    for name, path in modules().items():
        lines[plan()[name].room] += len(path.read_text().splitlines())
    every = arrows()
    for room, floor in sorted(rooms.items(), key=lambda item: (-item[1], item[0])):
        targets = ", ".join(sorted(target for source, target in every if source == room))
        print(f"{floor}  {room:<12} {lines[room]:>6} lines  -> {targets}")
    in_core = {pair for pair in every if not {*pair} & {*WINGS, "cli"}}
    print(f"{len(rooms)} rooms and files on {len({*rooms.values()})} floors, {sum(lines.values())} lines")
    print(f"{len(every)} arrows; {len(in_core)} of them in the core, without wings and command line")


if __name__ == "__main__":
    main()
