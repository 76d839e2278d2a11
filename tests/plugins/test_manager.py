from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import hf_distill
from hf_distill import PluginError, Plugins
from hf_distill.plugins.discovery import installed_plugins

# The smallest plugin, as the documentation shows it.
TVD = '''"""Total-variation distillation loss (Wen et al. 2023, arXiv:2307.15190)."""
import hf_distill


@hf_distill.hookimpl
def register_losses(register):
    register("tvd", tvd_loss)


def tvd_loss(student_logits, teacher_logits):
    """Half the L1 distance between next-token distributions.

    Both inputs are [n, V], a chunk of rows; returns float32 [n] in [0, 1]. The engine masks, chunks and reduces.
    """
    gap = student_logits.float().softmax(-1) - teacher_logits.float().softmax(-1)
    return 0.5 * gap.abs().sum(-1)
'''


def registering(hook: str, *names: str) -> str:
    """The source of a plugin that registers components of one kind under `names`."""
    body = "\n".join(f"    register({name!r}, print)" for name in names)
    return f"import hf_distill\n\n@hf_distill.hookimpl\ndef {hook}(register):\n{body}\n"


def test_the_smallest_plugin_is_found_and_computes_total_variation(install):
    import torch

    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    plugins = Plugins(["tvd"])
    loss = plugins.losses.create("tvd")
    student, teacher = torch.randn(5, 7), torch.randn(5, 7)
    values = loss(student, teacher)
    probabilities = [np.exp(x.numpy()) / np.exp(x.numpy()).sum(-1, keepdims=True) for x in (student, teacher)]
    # Total variation is also what one distribution has above the other.
    expected = np.maximum(probabilities[0] - probabilities[1], 0).sum(-1)
    np.testing.assert_allclose(values.numpy(), expected, rtol=1e-5)
    assert plugins.versions() == {"hf_distill": hf_distill.__version__, "tvd": "0.1.0"}
    assert plugins.losses.get("tvd").package == "tvd (hf-distill-tvd 0.1.0)"


def test_an_installed_plugin_that_is_not_named_is_not_imported(install):
    install(
        "hf-distill-broken", "2.0", {"broken": "broken_plugin"}, {"broken_plugin.py": "raise SystemExit('imported')"}
    )
    plugins = Plugins()
    assert "broken" in [info.name for info in plugins.installed()]
    assert "broken" not in plugins.active
    assert "broken_plugin" not in sys.modules


def test_a_named_plugin_that_is_broken_says_its_name_version_and_cause(install):
    install("hf-distill-broken", "2.0", {"broken": "broken_plugin"}, {"broken_plugin.py": "import no_such_package"})
    with pytest.raises(
        PluginError, match=r"broken \(hf-distill-broken 2\.0\).*No module named 'no_such_package'"
    ) as error:
        Plugins(["broken"])
    assert isinstance(error.value.__cause__, ModuleNotFoundError)


def test_an_error_inside_a_hook_says_which_plugin_and_which_hook(install):
    source = "import hf_distill\n@hf_distill.hookimpl\ndef register_metrics(register):\n    1 / 0\n"
    install("hf-distill-broken", "2.0", {"broken": "broken_plugin"}, {"broken_plugin.py": source})
    with pytest.raises(PluginError, match=r"hf-distill-broken 2\.0.*register_metrics: ZeroDivisionError"):
        Plugins(["broken"])


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (registering("register_lossess", "x"), "register_lossess"),
        ("import hf_distill\n@hf_distill.hookimpl\ndef register_losses(add): ...", "add"),
        ("def register_losses(register): ...", "implements no hook"),
        ("import hf_distill\n@hf_distill.hookimpl(wrapper=True)\ndef register_losses(register): yield", "wraps"),
        (registering("register_losses", "CamelCase"), "snake_case"),
        (
            registering("register_losses", "forward_kl"),
            r"both hf_distill \(hf-distill .*\) and bad \(hf-distill-bad 1\)",
        ),
    ],
    ids=["unknown hook", "unknown argument", "no marker", "wrapper", "name of a component", "name of a built-in"],
)
def test_a_plugin_that_would_silently_do_nothing_or_the_wrong_thing_is_an_error(install, source, message):
    install("hf-distill-bad", "1", {"bad": "bad_plugin"}, {"bad_plugin.py": source})
    with pytest.raises(PluginError, match=rf"bad \(hf-distill-bad 1\).*{message}"):
        Plugins(["bad"])


def test_two_plugins_with_the_same_component_are_an_error_that_names_both(install):
    for letter in "ab":
        files = {f"plugin_{letter}.py": registering("register_selectors", "same")}
        install(f"hf-distill-{letter}", "1.0", {letter: f"plugin_{letter}"}, files)
    with pytest.raises(
        PluginError, match=r"'same' is registered by both a \(hf-distill-a 1.0\) and b \(hf-distill-b 1.0\)"
    ):
        Plugins(["b", "a"])
    assert [
        component.package for component in Plugins(["a", "b"], block=["a"]).selectors if component.name == "same"
    ] == ["b (hf-distill-b 1.0)"]


def test_one_name_offered_by_two_packages_is_an_error_only_when_it_is_named(install):
    for letter in "ab":
        install(f"hf-distill-{letter}", "1.0", {"same": f"plugin_{letter}"}, {f"plugin_{letter}.py": ""})
    Plugins()
    with pytest.raises(PluginError, match=r"hf-distill-a 1\.0.*hf-distill-b 1\.0"):
        Plugins(["same"])


def test_the_order_of_installation_and_of_naming_does_not_matter(install):
    order = []
    for letter in "cadb":
        # A plugin that asks pluggy for the first or last place does not get it: every process calls in order of name.
        marker = f"@hf_distill.hookimpl(tryfirst={letter == 'd'}, trylast={letter == 'a'})"
        source = f"import hf_distill\n{marker}\ndef training_started(trainer): trainer.append({letter!r})\n"
        install(f"hf-distill-{letter}", "1.0", {letter: f"plugin_{letter}"}, {f"plugin_{letter}.py": source})
    assert [info.name for info, _ in installed_plugins() if info.name in "abcd"] == list("abcd")
    first, second = Plugins(["d", "b", "a"]), Plugins(["a", "d", "b"])
    assert list(first.active) == list(second.active) == ["hf_distill", "a", "b", "d"]
    assert first.fingerprint() == second.fingerprint()
    first.training_started(order)
    assert order == ["a", "b", "d"]


@pytest.mark.parametrize(("version", "name"), [("1.1", "x"), ("1.0", "y")])
def test_the_fingerprint_tells_versions_and_components_apart(tmp_path, version, name):
    def info(version, name):
        plugin = SimpleNamespace(__name__="plugin", register_losses=None)

        @hf_distill.hookimpl
        def register_losses(register):
            register(name, print)

        plugin.register_losses = register_losses
        plugin.__file__ = str(tmp_path / version)
        (tmp_path / version).write_text(version)
        return Plugins([plugin])

    base, other = info("1.0", "x"), info(version, name)
    assert base.fingerprint() == info("1.0", "x").fingerprint()
    assert base.fingerprint() != other.fingerprint()


def test_an_unknown_plugin_lists_what_is_installed_and_the_nearest_name(install):
    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    with pytest.raises(ValueError, match=r"'tdv' \(did you mean 'tvd'\?\).*tvd \(hf-distill-tvd 0\.1\.0\)"):
        Plugins(["tdv"])


def test_a_component_that_is_named_activates_the_plugin_that_has_it(install, caplog):
    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    plugins = Plugins()
    assert "tvd" not in plugins.active
    plugins.losses.create("tvd")
    assert plugins.versions()["tvd"] == "0.1.0"
    assert "tvd (hf-distill-tvd 0.1.0)" in plugins.fingerprint()
    assert [record.getMessage() for record in caplog.records] == [
        "The loss 'tvd' is of the plugin tvd (hf-distill-tvd 0.1.0), which is active now."
    ]


def test_looking_for_a_component_runs_nothing_of_other_plugins_but_their_registrations(install):
    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    source = "import hf_distill\n@hf_distill.hookimpl\ndef training_started(trainer): trainer.append('runs')\n"
    install("hf-distill-other", "1.0", {"other": "other_plugin"}, {"other_plugin.py": source})
    plugins, started = Plugins(), []
    plugins.losses.create("tvd")
    plugins.training_started(started)
    assert started == []
    assert "other" not in plugins.active
    plugins = Plugins(["other"])
    plugins.training_started(started)
    assert started == ["runs"]


def test_a_component_that_two_installed_plugins_have_is_an_error_that_names_both(install):
    for letter in "ab":
        files = {f"plugin_{letter}.py": registering("register_losses", "same")}
        install(f"hf-distill-{letter}", "1.0", {letter: f"plugin_{letter}"}, files)
    with pytest.raises(
        ValueError, match=r"loss 'same' is of several .*a \(hf-distill-a 1\.0\) and b \(hf-distill-b 1\.0\).*\[-b\]"
    ):
        Plugins().losses.get("same")
    assert Plugins(["a"]).losses.get("same").package == "a (hf-distill-a 1.0)"
    assert Plugins(["-b"]).losses.get("same").package == "a (hf-distill-a 1.0)"


def test_a_broken_plugin_is_a_warning_where_it_is_not_named_and_the_cause_where_its_component_may_be(install, caplog):
    install("hf-distill-broken", "2.0", {"broken": "broken_plugin"}, {"broken_plugin.py": "import no_such_package"})
    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    plugins = Plugins()
    plugins.losses.create("tvd")
    assert any("hf-distill-broken 2.0" in record.getMessage() for record in caplog.records)
    with pytest.raises(ValueError, match=r"no loss 'lost'.*broken \(hf-distill-broken 2\.0\).*no_such_package"):
        plugins.losses.get("lost")


def test_a_blocked_plugin_is_not_found_by_its_component(install):
    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    with pytest.raises(ValueError, match="no loss 'tvd'"):
        Plugins(["-tvd"]).losses.get("tvd")
    assert "hf_distill_tvd" not in sys.modules


KIND = """
import hf_distill

@hf_distill.hookimpl
def register_kinds(register):
    register("teachers", "vision", "vision teacher")
"""


def test_a_strangers_package_brings_a_kind_for_others_to_register(install):
    install("hf-distill-vision", "1.0", {"vision": "vision_plugin"}, {"vision_plugin.py": KIND})
    source = registering("register_teachers", "eye").replace("print)", "print, kind='vision')")
    install("hf-distill-eye", "1.0", {"eye": "eye_plugin"}, {"eye_plugin.py": source})
    plugins = Plugins()
    assert plugins.registry("teachers", "vision").get("eye").target is print
    assert {"vision", "eye"} <= plugins.active.keys()
    assert list(Plugins(["eye"]).registry("teachers", "vision"))
    with pytest.raises(ValueError, match="no kind 'auditory' of teachers; expected 'signal' or 'text' or 'vision'"):
        plugins.registry("teachers", "auditory")


def test_a_component_of_another_kind_is_said_to_be_that():
    with pytest.raises(ValueError, match=r"no teacher 'endpoint'.*'endpoint' is a text teacher of serving"):
        Plugins().teachers.get("endpoint")


def test_wings_of_the_core_are_plugins_that_are_active_where_they_are_named():
    plugins = Plugins()
    assert list(plugins.active) == ["hf_distill"]
    assert plugins.commands.get("ledger").package.startswith("serving (hf-distill ")
    assert list(plugins.active) == ["hf_distill", "serving"]


def test_a_blocked_plugin_stays_inactive_and_a_misspelt_block_does_not_pass_silently(install):
    install("hf-distill-broken", "2.0", {"broken": "broken_plugin"}, {"broken_plugin.py": "1 / 0"})
    assert list(Plugins(["broken"], block=["broken"]).active) == ["hf_distill"]
    with pytest.raises(ValueError, match="borken"):
        Plugins(["broken"], block=["borken"])


def test_a_local_file_is_a_plugin_and_its_version_is_its_content(tmp_path, monkeypatch, install):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "random.py").write_text(registering("register_losses", "mine"))
    plugins = Plugins(["random.py"])
    assert "mine" in plugins.losses
    before = plugins.versions()["random.py"]
    assert before.startswith("sha256:")
    import random

    assert random.__name__ == "random", "the plugin must not hide the standard module of its name"
    assert hasattr(random, "randint")
    (tmp_path / "random.py").write_text(registering("register_losses", "edited"))
    edited = Plugins(["random.py"])
    assert "edited" in edited.losses, "the version would be that of a file that is not what runs"
    assert edited.versions()["random.py"] != before


def test_a_local_file_with_a_dataclass_under_postponed_annotations_loads(tmp_path, install):
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n@dataclass\nclass A:\n    x: int = 1\n"
    )
    (tmp_path / "plugin.py").write_text(source + registering("register_losses", "mine"))
    assert "mine" in Plugins([str(tmp_path / "plugin.py")]).losses


def test_a_missing_local_file_is_not_taken_for_a_broken_one(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.py"):
        Plugins([os.fspath(tmp_path / "absent.py")])
    (tmp_path / "broken.py").write_text("open('/no/such/file')")
    with pytest.raises(PluginError, match=r"broken\.py.*FileNotFoundError"):
        Plugins([os.fspath(tmp_path / "broken.py")])


def test_an_importable_module_and_an_object_and_a_class_are_plugins(tmp_path, monkeypatch, install):
    (tmp_path / "my_experiment.py").write_text(registering("register_metrics", "from_module"))
    monkeypatch.syspath_prepend(tmp_path)

    class Plugin:
        @hf_distill.hookimpl
        def register_metrics(self, register):
            register(f"from_{type(self).__name__.lower()}", print)

    class Other(Plugin):
        pass

    plugins = Plugins(["my_experiment", Plugin, Other()])
    assert {"from_module", "from_plugin", "from_other"} <= {component.name for component in plugins.metrics}


def test_a_plugin_class_that_cannot_be_made_names_the_plugin():
    class Needy:
        def __init__(self, something): ...

    with pytest.raises(PluginError, match=r"Needy .*TypeError.*something"):
        Plugins([Needy])


def test_two_different_objects_of_one_name_do_not_replace_each_other():
    class Plugin:
        @hf_distill.hookimpl
        def register_metrics(self, register): ...

    with pytest.raises(ValueError, match="two different plugins are called 'Plugin'"):
        Plugins([Plugin(), Plugin()])


def test_naming_a_plugin_twice_is_naming_it_once(install):
    install("hf-distill-tvd", "0.1.0", {"tvd": "hf_distill_tvd"}, {"hf_distill_tvd.py": TVD})
    assert "tvd" in Plugins(["tvd", "tvd"]).losses


def test_builders_and_transforms_are_told_apart():
    class Plugin:
        @hf_distill.hookimpl
        def register_students(self, register):
            register("a_builder", print)
            register("a_transform", print, kind="transform")

    plugins = Plugins([Plugin()])
    assert "a_builder" in plugins.students
    assert "a_builder" not in plugins.transforms
    assert "a_transform" in plugins.transforms
    assert "a_transform" not in plugins.students

    class Wrong:
        @hf_distill.hookimpl
        def register_students(self, register):
            register("a", print, kind="builders")

    with pytest.raises(PluginError, match="'builders' of students; expected 'builder' or 'transform'"):
        Plugins([Wrong()])


def test_an_error_in_a_lifecycle_event_carries_the_plugins_name():
    class Plugin:
        @hf_distill.hookimpl
        def training_finished(self):
            raise KeyError("x")

    with pytest.raises(PluginError, match=r"Plugin .*training_finished: KeyError"):
        Plugins([Plugin()]).training_finished(trainer=None)


def test_every_built_in_component_can_be_imported():
    broken = {}
    components = [one for one in Plugins().available()[0] if "(hf-distill " in one.package]
    assert len(components) > 30
    for component in components:
        try:
            assert component.signature
        except PluginError as error:
            broken[component.name] = str(error.__cause__)
    assert not broken
