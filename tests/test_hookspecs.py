from __future__ import annotations

import inspect

import pytest

import hf_distill
from hf_distill import Plugins, hookspecs
from hf_distill.plugins.discovery import DEFAULT_KINDS

HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if inspect.isfunction(function) and hasattr(function, "hf_distill_spec")
}


def count(plugins: Plugins) -> int:
    return sum(len(list(registry)) for registry in plugins.registries())


def test_there_are_at_most_ten_hooks():
    assert 0 < len(HOOKS) <= 10


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_says_what_when_where_and_how(name):
    documentation = inspect.getdoc(HOOKS[name])
    assert documentation.partition("\n")[0].endswith(".")
    for section in ("Args:", "When and where:", "Example:"):
        assert section in documentation
    for parameter in inspect.signature(HOOKS[name]).parameters:
        assert f"    {parameter}: " in documentation


@pytest.mark.parametrize("name", HOOKS)
def test_the_example_of_every_hook_is_accepted_and_called(name, tmp_path, capsys):
    example = inspect.getdoc(HOOKS[name]).partition("Example:\n")[2]
    source = "\n".join(line.strip()[4:] for line in example.splitlines())
    assert source.startswith("@hf_distill.hookimpl\n")
    (tmp_path / "example.py").write_text(f"import hf_distill\n{source}\n")
    before = count(Plugins())
    plugins = Plugins([str(tmp_path / "example.py")])
    if name == "register_kinds":
        assert plugins.registry("teachers", "vision").label == "vision teacher"
    elif name.startswith("register_"):
        assert count(plugins) == before + 1
    else:
        state = type("State", (), {"max_steps": 7, "best_metric": 0.5})
        plugins.notify(name, trainer=type("Trainer", (), {"state": state}))
        assert capsys.readouterr().out


def test_every_hook_has_a_way_to_be_called():
    plugins = Plugins()
    for name in HOOKS:
        if name.startswith("register_"):
            assert name == "register_kinds" or name.removeprefix("register_") in DEFAULT_KINDS
        else:
            assert inspect.signature(getattr(plugins, name)).parameters.keys() == (
                inspect.signature(HOOKS[name]).parameters.keys()
            )


def test_the_marker_of_plugins_is_the_one_of_the_specifications():
    assert hf_distill.hookimpl is hookspecs.hookimpl
    assert hookspecs.hookimpl.project_name == hookspecs.hookspec.project_name
