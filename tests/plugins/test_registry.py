from __future__ import annotations

import functools
import sys
from dataclasses import dataclass

import pytest
from torch import nn

from hf_distill.plugins.registry import Component, ErrorContext, PluginError, Registry, did_you_mean


def row_loss(student_logits, teacher_logits, *, beta=0.5, gamma):
    """Difference, scaled.

    Second paragraph.
    """
    return beta * (student_logits - teacher_logits) + gamma


def old_style(student_logits, teacher_logits, labels, beta=0.5):
    return beta


class WithOptions:
    def __init__(self, width: int, *, depth: int = 2):
        self.shape = (width, depth)


class Bare(nn.Module):
    pass


@dataclass
class Config:
    path: str
    rate: float = 0.1


def factory(*, size=3):
    return [0] * size


def anything(student, teacher, **options):
    return options


def component(name, target, *, package, help=""):
    return Component("losses", "loss", name, target, package, help)


@pytest.fixture
def registry() -> Registry:
    registry = Registry("loss")
    for target in (row_loss, old_style, factory, anything):
        registry.add(component(target.__name__, target, package="core 1.0"))
    registry.add(component("with_options", WithOptions, package="core 1.0"))
    registry.add(component("bare", Bare, package="core 1.0"))
    registry.add(component("config", Config, package="core 1.0"))
    return registry


def test_a_function_keeps_its_positions_and_gets_its_options(registry):
    loss = registry.create("row_loss", {"gamma": 1.0})
    assert isinstance(loss, functools.partial)
    assert loss(5.0, 1.0) == 3.0
    assert registry.create("row_loss", {"gamma": 0.0, "beta": 1.0})(5.0, 1.0) == 4.0
    assert registry.create("old_style", {"beta": 2})(1, 2, 3) == 2
    assert registry.create("old_style") is old_style


def test_a_class_is_instantiated_and_a_factory_is_called(registry):
    assert registry.create("with_options", {"width": 4}).shape == (4, 2)
    assert registry.create("config", {"path": "a"}) == Config("a", 0.1)
    assert registry.create("factory", {"size": 2}) == [0, 0]
    assert registry.create("factory") == [0, 0, 0]
    assert isinstance(registry.create("bare"), Bare)


def test_options_of_anything_are_passed_on(registry):
    assert registry.create("anything", {"whatever": 1})(0, 0) == {"whatever": 1}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("row_loss", {"bta": 1}, r"loss 'row_loss' of core 1\.0 .*'bta' \(did you mean 'beta'\?\).*beta, gamma"),
        ("row_loss", {}, "needs the option 'gamma'"),
        ("row_loss", {"student_logits": 1, "gamma": 1}, "no option 'student_logits'"),
        ("old_style", {"labels": 1}, "no option 'labels'.*Its options: beta"),
        ("with_options", {"depth": 1}, "needs the option 'width'"),
        ("with_options", {"width": 1, "self": 2}, "no option 'self'"),
        ("bare", {"width": 1}, "no option 'width'.*none"),
        ("factory", {"sise": 1}, "did you mean 'size'"),
        ("row_los", {}, r"no loss 'row_los' \(did you mean 'row_loss'\?\)\. Registered: anything, bare"),
    ],
)
def test_a_wrong_name_or_option_is_not_dropped_silently(registry, name, options, message):
    with pytest.raises(ValueError, match=message):
        registry.create(name, options)


@pytest.mark.parametrize("name", ["", "CamelCase", "with-dash", "1st", "with space", "_private"])
def test_names_that_do_not_fit_configurations_are_refused(name):
    with pytest.raises(ValueError, match="snake_case"):
        Registry("loss").add(component(name, print, package="a 1"))


@pytest.mark.parametrize("target", ["module.attribute", "module:", 3, None])
def test_targets_that_would_fail_only_when_used_are_refused(target):
    with pytest.raises(ValueError, match="module:attribute"):
        Registry("loss").add(component("name", target, package="a 1"))


def test_a_duplicate_does_not_replace_the_first_and_names_both_packages(registry):
    with pytest.raises(ValueError, match=r"loss 'factory' is registered by both core 1\.0 and other 2\.0"):
        registry.add(component("factory", print, package="other 2.0"))
    assert registry.get("factory").target is factory


def test_a_lazy_target_is_imported_when_used_and_not_before(tmp_path, monkeypatch):
    (tmp_path / "lazy_component.py").write_text('def scale(x, *, by=2):\n    """Scales."""\n    return x * by\n')
    monkeypatch.syspath_prepend(tmp_path)
    registry = Registry("loss")
    registry.add(component("scale", "lazy_component:scale", package="a 1"))
    registry.add(component("described", "lazy_component:scale", package="a 1", help="Its own words."))
    assert [component.name for component in registry] == ["described", "scale"]
    assert registry.get("described").summary() == "Its own words."
    assert "lazy_component" not in sys.modules
    assert registry.create("scale", {"by": 3})(2) == 6
    assert registry.get("scale").summary() == "Scales."
    del sys.modules["lazy_component"]


def test_a_lazy_target_that_is_not_there_names_its_package():
    registry = Registry("loss")
    registry.add(component("gone", "hf_distill.plugins.registry:gone", package="a (pkg 1.0)"))
    registry.add(component("absent", "no_such_module:gone", package="a (pkg 1.0)"))
    for name, cause in (("gone", AttributeError), ("absent", ModuleNotFoundError)):
        with pytest.raises(PluginError, match=rf"a \(pkg 1\.0\) registers '{name}' among its losses") as error:
            registry.create(name)
        assert isinstance(error.value.__cause__, cause)


def test_what_a_component_takes_is_listed_with_its_defaults(registry):
    listed = {parameter.name: parameter for parameter in registry.get("row_loss").signature.options}
    assert listed["beta"].default == 0.5
    assert not listed["beta"].required
    assert listed["gamma"].required
    assert set(listed) == {"beta", "gamma"}
    assert registry.get("row_loss").summary() == "Difference, scaled."


def test_a_signature_is_read_once(registry, monkeypatch):
    registry.create("row_loss", {"gamma": 1.0})
    monkeypatch.setattr("inspect.signature", None)
    registry.create("row_loss", {"gamma": 1.0})


def test_an_error_keeps_its_type_and_gets_the_name_of_its_component():
    class OutOfMemoryError(RuntimeError):
        pass

    @ErrorContext("loss 'x' of a (pkg 1.0)")
    def fails():
        raise OutOfMemoryError("no memory")

    with pytest.raises(OutOfMemoryError, match="no memory") as error:
        fails()
    # Where Python has no notes (3.10), the sentence is part of the message.
    text = " ".join([str(error.value), *getattr(error.value, "__notes__", [])])
    assert "loss 'x' of a (pkg 1.0)" in text


def test_a_constructor_that_fails_says_whose_it_is():
    class Fails:
        def __init__(self):
            raise TypeError("boom")

    registry = Registry("teacher")
    registry.add(component("fails", Fails, package="a (pkg 1.0)"))
    with pytest.raises(TypeError, match="boom") as error:
        registry.create("fails")
    assert "teacher 'fails' of a (pkg 1.0)" in " ".join([str(error.value), *getattr(error.value, "__notes__", [])])


def test_a_plugin_error_survives_the_way_back_from_a_worker_process():
    import pickle

    error = pickle.loads(pickle.dumps(PluginError("a (pkg 1.0)", "is broken")))
    assert str(error) == "plugin a (pkg 1.0) is broken"


def test_nothing_is_suggested_where_nothing_is_near():
    assert did_you_mean("quaternion", ["jsd", "forward_kl"]) == ""
