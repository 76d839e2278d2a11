"""A package of each kind is written, installed by pip, found, and passes its own tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill.cli.main import main
from hf_distill.cli.new_plugin import KINDS, TEMPLATES, write_plugin

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """The folders of one package of each kind."""
    folder = tmp_path_factory.mktemp("packages")
    return [write_plugin(f"new-{kind}", kind, folder) for kind in KINDS]


@pytest.fixture(scope="module")
def environment(packages):
    """An environment in which all of them are installed."""
    site = packages[0].parent / "site"
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--target", str(site)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *map(str, packages)], check=True)
    return {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}


def test_a_package_is_found_and_says_what_it_has_without_importing_torch(packages, environment):
    names = ",".join(f"new_{kind}" for kind in KINDS)
    code = (
        "import sys; from hf_distill.cli.main import main\n"
        f"main(['--plugins', '{names}', 'plugins', '--json'])\n"
        "assert not {'torch', 'datasets', 'evaluate'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    listed = {plugin["name"]: plugin for plugin in json.loads(done.stdout)["plugins"]}
    for kind, registry in KINDS.items():
        assert listed[f"new_{kind}"]["distribution"] == f"hf-distill-new-{kind}"
        assert listed[f"new_{kind}"]["components"] == {registry: [f"new_{kind}"]}


def test_every_package_passes_its_own_tests(packages, environment):
    tests = [str(package / "tests") for package in packages]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(packages[0] / "pyproject.toml"),
        *tests,
    ]
    done = subprocess.run(command, env=environment, cwd=packages[0].parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "passed" in done.stdout


def test_a_package_has_all_its_files_and_no_place_that_was_not_filled(packages):
    for kind, package in zip(KINDS, packages, strict=True):
        module = f"src/hf_distill_new_{kind}"
        found = {path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file()}
        expected = {"pyproject.toml", "README.md", f"{module}/__init__.py", f"{module}/py.typed", f"{module}/{kind}.py"}
        assert found == {*expected, f"tests/test_{kind}.py"}
        for name in found:
            text = (package / name).read_text()
            assert "$" not in text
            assert "MODULE" not in text
        assert len((package / module / f"{kind}.py").read_text().splitlines()) < 100


def test_every_package_keeps_to_the_style(packages):
    rules = ["--select", "E,F,W,UP,B,RUF,PT", "--line-length", "120", "--target-version", "py310"]
    command = [sys.executable, "-m", "ruff", "check", "--isolated", *rules, *map(str, packages)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_templates_are_in_the_wheel():
    builders = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds the wheel")
    shipped = {file.distribution_path for file in builders.WheelBuilder(str(ROOT)).recurse_included_files()}
    templates = {path.relative_to(ROOT).as_posix() for path in TEMPLATES.rglob("*.tmpl")}
    assert len(templates) > 4 * len(KINDS)
    assert templates <= shipped


@pytest.mark.parametrize("name", ["", "Upper", "9-lives", "a--b", "-a", "two words", "../up", "class"])
def test_a_name_that_python_cannot_import_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"is no name for a plugin; expected .* as in my-loss"):
        write_plugin(name, "loss", tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_name_that_the_core_has_for_the_same_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"There is a loss 'forward_kl' of hf_distill .* already"):
        write_plugin("forward-kl", "loss", tmp_path)
    assert write_plugin("forward-kl", "metric", tmp_path).is_dir()


def test_what_is_there_is_not_overwritten(tmp_path, capsys):
    words = ["new-plugin", "mine", "--kind", "loss", "--output", str(tmp_path)]
    assert main(words) == 0
    file = tmp_path / "hf-distill-mine" / "README.md"
    file.write_text("my own words")
    assert main(words) == 2
    assert "exists already" in capsys.readouterr().err
    assert file.read_text() == "my own words"


def test_a_kind_that_does_not_exist_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["new-plugin", "mine", "--kind", "los"])
    assert stop.value.code == 2
    assert "invalid choice: 'los' (choose from" in capsys.readouterr().err


def test_the_whole_distribution_name_gets_no_second_prefix(tmp_path):
    assert write_plugin("hf-distill-my_loss", "loss", tmp_path).name == "hf-distill-my-loss"
