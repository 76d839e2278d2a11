"""The direction of imports that docs/architecture.md draws, and what must not be imported at all."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

import hf_distill

from . import house

ROOT = house.ROOT
BUILTINS = "plugins.builtins"  # registers what the core offers, by the names of modules that stand above it


def private_imports(tree: ast.Module, public: set[str], allowed: tuple[str, ...] = ()) -> list[str]:
    """What a file outside the core takes from hf_distill beside its public names and the public modules `allowed`."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.startswith("hf_distill.")]
        elif isinstance(node, ast.ImportFrom) and node.module == "hf_distill":
            found += [f"from hf_distill import {alias.name}" for alias in node.names if alias.name not in public]
        elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("hf_distill."):
            found += [f"{node.module} {alias.name}" for alias in node.names if node.module not in allowed]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "hf_distill":
            if node.attr not in public and f"hf_distill.{node.attr}" not in allowed:
                found.append(f"hf_distill.{node.attr}")
    return found


def test_the_architecture_page_names_every_module_and_no_other():
    assert house.plan().keys() == house.modules().keys()


def test_there_are_at_most_seventeen_rooms_on_nine_floors():
    rooms = {place.room for name, place in house.plan().items() if "." in name}
    assert len(rooms) <= 17
    assert len({place.floor for place in house.plan().values()}) <= 9


def test_imports_go_down():
    found = [
        breach
        for name, path in sorted(house.modules().items())
        if name != BUILTINS
        for breach in house.breaches(name, path.read_text())
    ]
    assert not found


def test_only_events_of_plugins_name_the_trainer_for_type_checkers():
    above = {
        (name, one.target)
        for name, path in house.modules().items()
        for one in house.imports(name, path.read_text())
        if one.kind == "type" and house.plan()[one.target].floor > house.plan()[name].floor
    }
    assert above <= {("hookspecs", "trainer"), ("plugins.manager", "trainer")}


def test_what_the_core_registers_stands_in_no_wing():
    targets = house.imports(BUILTINS, house.modules()[BUILTINS].read_text())
    assert not {one.target for one in targets if house.plan()[one.target].room in house.WINGS}
    assert not [one for one in targets if one.kind == "statement" and house.plan()[one.target].floor > 1]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses.hidden", "from .. import DistillationTrainer"),
        ("losses.hidden", "from hf_distill import DistillationTrainer"),
        ("losses.hidden", "import hf_distill\nhf_distill.DistillationTrainer"),
        ("losses.hidden", "import hf_distill.trainer"),
        ("losses.hidden", "import importlib\nimportlib.import_module('hf_distill.trainer')"),
        ("losses.hidden", "import importlib\nimportlib.import_module('..trainer', __package__)"),
        ("losses.hidden", "def late():\n    from ..training.plan import Plan"),
        ("losses.hidden", "from ..teachers.base import Teacher"),
        ("losses.hidden", "from .. import __version__"),
        ("training.meter", "from ..trainer import DistillationTrainer"),
        ("batch.views", "from ..losses.base import BatchLoss"),
        ("plugins.registry", "from ..batch.reader import BatchReader"),
        ("models.heads", "from ..batch import signals"),
        ("teachers.local", "from ..cache.store import CacheStore"),
        ("trainer", "def late():\n    from .drivers.stages import StagesDriver"),
        ("serving.budget", "from ..rounds import driver"),
        ("drivers.stages", "register('x', 'hf_distill.cli.train:train')"),
        ("data.loader", "if True:\n    from hf_distill.students import base"),
    ],
)
def test_an_import_that_goes_up_or_sideways_is_seen(module, source):
    assert house.breaches(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("losses.hidden", "from ..batch.signals import Batch"),
        ("losses.hidden", "from .base import BatchLoss"),
        ("losses.hidden", '"""See hf_distill.trainer."""'),
        ("training.plan", "from ..students import build_student"),
        ("hookspecs", "if TYPE_CHECKING:\n    from .trainer import DistillationTrainer"),
    ],
)
def test_an_import_that_goes_down_passes(module, source):
    assert not house.breaches(module, source)


def test_the_core_imports_no_plugin():
    taken = {
        (name, node.module)
        for name, path in house.modules().items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hf_distill_")
    }
    assert not taken


def test_plugins_and_examples_import_only_public_names():
    public = {*hf_distill.__all__, "__version__"}
    found = {}
    for path in [*(ROOT / "plugins").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        allowed = ("hf_distill.testing",) if "tests" in path.parts else ()
        if private := private_imports(ast.parse(path.read_text()), public, allowed):
            found[str(path.relative_to(ROOT))] = private
    assert not found, "make the name public in hf_distill/__init__.py, or do without it"


def test_private_imports_of_a_plugin_are_seen_in_every_spelling():
    source = """
import hf_distill
import hf_distill.training.step
from hf_distill import Signal, taps
from hf_distill.losses.base import RowLoss
from hf_distill.testing import tiny_llama
hf_distill.hookimpl
hf_distill.plugins
"""
    found = private_imports(ast.parse(source), set(hf_distill.__all__), ("hf_distill.testing",))
    assert sorted(found) == [
        "from hf_distill import taps",
        "hf_distill.losses.base RowLoss",
        "hf_distill.plugins",
        "hf_distill.training.step",
    ]


def test_importing_the_package_changes_nothing_outside_of_it():
    code = """
import sys
before = list(sys.meta_path), list(sys.path_hooks)
import hf_distill
assert (list(sys.meta_path), list(sys.path_hooks)) == before
assert type(hf_distill) is type(sys)
import transformers
stock = transformers.PreTrainedModel.from_pretrained.__func__
hf_distill.DistillationTrainer, hf_distill.load_student
assert transformers.PreTrainedModel.from_pretrained.__func__ is stock
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


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
