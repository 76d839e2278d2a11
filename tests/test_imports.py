"""The direction of imports that the design draws, and what must not be imported at all."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import hf_distill

CORE = Path(hf_distill.__file__).parent
PLUGINS = CORE.parent / "plugins"
ROOMS = ("losses", "teachers", "data", "students", "metrics")
GROUND = ("hookspecs", "registry", "plugins", "builtins", "signals", "heads", "taps", "ledger")
# What each may not reach, beside what the tests below say of the rooms.
ABOVE = {
    "trainer": ("drivers", "report", "cli", "testing"),
    "drivers": ("report", "cli", "testing"),
    "report": ("cli", "testing"),
    "cli": ("testing",),
}


def parse(path: Path) -> ast.Module:
    """The syntax tree of a file, without what only type checkers import."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    return tree


def imports(tree: ast.Module, package: str) -> set[tuple[str, str]]:
    """(module, name) of everything that a file of `package` imports; name is empty for ``import module``."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found |= {(module, alias.name) for alias in node.names}
    return found


@functools.cache
def graph() -> dict[str, set[str]]:
    """The modules of the core and which of them each imports, the packages on the way included."""
    files = {".".join(path.relative_to(CORE.parent).with_suffix("").parts): path for path in CORE.rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in files.items()}
    edges: dict[str, set[str]] = {}
    for name, path in modules.items():
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        edges[name] = set()
        for module, attribute in imports(parse(path), package):
            target = f"{module}.{attribute}" if f"{module}.{attribute}" in modules else module
            parts = target.split(".")
            # The package itself is left out: it imports nothing until a name is used.
            edges[name] |= {".".join(parts[:end]) for end in range(2, len(parts) + 1)} & modules.keys()
    return edges


def part_of(module: str, part: str) -> bool:
    return f"{module}.".startswith(f"hf_distill.{part}.")


def reached_from(part: str) -> dict[str, str]:
    """Every module reached from those of `part`, and the module that imports it."""
    found: dict[str, str] = {}
    waiting = [module for module in graph() if part_of(module, part)]
    while waiting:
        module = waiting.pop()
        for target in graph()[module] - found.keys():
            found[target] = module
            waiting.append(target)
    return found


def offences(part: str, forbidden: tuple[str, ...]) -> list[str]:
    return [
        f"{importer} imports {target}"
        for target, importer in reached_from(part).items()
        if any(part_of(target, other) for other in forbidden)
    ]


def private_imports(tree: ast.Module, public: set[str], modules: tuple[str, ...] = ()) -> list[str]:
    """What a plugin's file takes from hf_distill beside its public names and the public `modules`."""
    found = []
    for module, name in sorted(imports(tree, "")):
        if module == "hf_distill" and name and name not in public:
            found.append(f"from hf_distill import {name}")
        elif module.startswith("hf_distill.") and module not in modules:
            found.append(f"{module} {name}".strip())
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hf_distill":
            if node.attr not in public and f"hf_distill.{node.attr}" not in modules:
                found.append(f"hf_distill.{node.attr}")
    return found


def test_the_graph_sees_relative_absolute_and_package_imports():
    assert "hf_distill.plugins.registry" in graph()["hf_distill.plugins.manager"]
    assert "hf_distill.plugins.builtins" in graph()["hf_distill.plugins.manager"], "from . import module"
    assert "hf_distill.plugins.manager" in graph()["hf_distill.cli.main"], "from ..module import name"
    assert "hf_distill.trainer" not in graph()["hf_distill.hookspecs"], "only under TYPE_CHECKING"
    assert "hf_distill.hookspecs" in reached_from("cli")


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_import_each_other_nor_what_stands_above_them(room):
    others = tuple(other for other in ROOMS if other != room)
    assert not offences(room, (*others, "trainer", "drivers", "report", "cli", "testing"))


@pytest.mark.parametrize("module", GROUND)
def test_the_ground_imports_no_room(module):
    assert not offences(module, (*ROOMS, "trainer", "drivers", "report", "cli", "testing"))


@pytest.mark.parametrize("part", ABOVE)
def test_nothing_imports_what_stands_above_it(part):
    assert not offences(part, ABOVE[part])


def test_the_core_imports_no_plugin():
    taken = {
        (str(path.relative_to(CORE)), module)
        for path in CORE.rglob("*.py")
        for module, _ in imports(parse(path), "hf_distill")
        if module.startswith("hf_distill_")
    }
    assert not taken


def test_plugins_import_only_public_names():
    public = {*hf_distill.__all__, "__version__"}
    found = {}
    for path in PLUGINS.rglob("*.py"):
        modules = ("hf_distill.testing",) if "tests" in path.parts else ()
        if private := private_imports(parse(path), public, modules):
            found[str(path.relative_to(PLUGINS))] = private
    assert not found, "make the name public in hf_distill/__init__.py, or do without it"


def test_private_imports_of_a_plugin_are_seen_in_every_spelling():
    source = """
import hf_distill
import hf_distill.training.step
from hf_distill import Signal, taps
from hf_distill.losses.base import RowLoss
from hf_distill.testing import tiny_llama
hf_distill.hookimpl
hf_distill.plugins.registry
"""
    found = private_imports(ast.parse(source), set(hf_distill.__all__), ("hf_distill.testing",))
    assert found == [
        "from hf_distill import taps",
        "hf_distill.losses.base RowLoss",
        "hf_distill.training.step",
        "hf_distill.plugins.registry",
    ]


@pytest.mark.parametrize(
    "code",
    [
        "import hf_distill; hf_distill.hookimpl; hf_distill.Plugins",
        "from hf_distill.cli.main import main; main(['--help'])",
        "from hf_distill.cli.main import main; main(['plugins', '--json'])",
    ],
)
def test_starting_up_does_not_import_torch(code):
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'accelerate'} & sys.modules.keys()"
    result = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nassert not {heavy}, {heavy}"], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
