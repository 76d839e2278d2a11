"""What `trainer.py` touches that is private in `Trainer` is there, in whatever version of transformers this runs with.

A method that upstream renames would otherwise be overridden in vain, and silently: the test runs with the oldest and
the newest supported version.
"""

from __future__ import annotations

import ast
import inspect

import pytest
import transformers
from transformers import Trainer

from . import house

TREE = ast.parse((house.CORE / "trainer.py").read_text())
CLASS = next(node for node in TREE.body if isinstance(node, ast.ClassDef))
METHODS = {node.name: node for node in CLASS.body if isinstance(node, ast.FunctionDef)}
OVERRIDDEN = sorted(name for name in METHODS if name in dir(Trainer) and name != "__init__")


def is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def private_names(of_super: bool) -> set[str]:
    """Names with an underscore that are read of ``super()``, or of ``self``."""
    return {
        node.attr
        for node in ast.walk(CLASS)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and (is_super(node.value) if of_super else isinstance(node.value, ast.Name) and node.value.id == "self")
    }


def defined_names() -> set[str]:
    """What our class defines itself: methods, and attributes that it sets."""
    assigned = {
        node.attr
        for node in ast.walk(CLASS)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name)
    }
    return assigned | METHODS.keys()


def test_every_private_method_that_is_called_of_super_exists():
    assert private_names(of_super=True), "the test finds nothing, so it looks in the wrong place"
    assert not {name for name in private_names(of_super=True) if not hasattr(Trainer, name)}, transformers.__version__


def test_every_private_name_that_is_read_and_not_defined_here_exists():
    source = inspect.getsource(Trainer)
    read = private_names(of_super=False) - defined_names()
    assert read
    assert not {name for name in read if not hasattr(Trainer, name) and f"self.{name} = " not in source}


@pytest.mark.parametrize("name", [name for name in METHODS if name.startswith("_") and name != "__init__"])
def test_a_private_method_is_an_override_or_new_to_trainer(name):
    """Ours are called by us; an override is called by `Trainer` alone, and must call ``super()``."""
    calls_super = any(isinstance(node, ast.Call) and is_super(node) for node in ast.walk(METHODS[name]))
    assert hasattr(Trainer, name) == calls_super


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_override_takes_what_upstream_passes(name):
    """Every parameter of upstream's method is taken, by name or in ``*args`` and ``**kwargs``."""
    arguments = METHODS[name].args
    taken = {argument.arg for argument in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]}
    upstream = set(inspect.signature(getattr(Trainer, name)).parameters) - {"self"}
    assert (arguments.vararg and arguments.kwarg) or upstream <= taken


def test_no_other_module_reads_what_is_private_in_a_trainer():
    found = [
        f"{name}: {node.value.id}.{node.attr}"
        for name, path in house.modules().items()
        if name != "trainer"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "trainer"
        if node.attr.startswith("_")
    ]
    assert not found
