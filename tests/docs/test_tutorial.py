"""Every block of docs/writing_a_plugin.md runs, in the order of the page, in an environment of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from hf_distill.testing.batch_properties import BATCH_PROPERTIES
from hf_distill.testing.row_properties import ROW_PROPERTIES
from hf_distill.testing.training_properties import TRAINING_PROPERTIES

PAGE = (Path(__file__).parents[2] / "docs" / "writing_a_plugin.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
COMMANDS = {
    "hf-distill": "from hf_distill.cli.main import main",
    "pip": "from pip._internal.cli.main import main",
    "pytest": "from pytest import console_main as main",
}


@pytest.fixture
def environment(tmp_path):
    """Variables of an environment that sees everything installed here, and keeps what is installed there to itself."""
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    for name, line in COMMANDS.items():
        script = folder / "bin" / name
        script.write_text(f"#!{folder / 'bin' / 'python'}\nimport sys\n\n{line}\n\nsys.exit(main())\n")
        script.chmod(0o755)
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}  # "0" leaves isolation out
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **offline, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "OMP_NUM_THREADS": "1"}


def run_console(text, folder, environment):
    """Run the lines after "$ "; the others must be in the output of the command before them."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        done = subprocess.run(
            command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        fails = any("FAILED" in line for line in shown)
        assert (done.returncode != 0) == fails, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        for line in shown:
            assert line in done.stdout, f"{command} does not print {line!r}:\n{done.stdout[-3000:]}"


def test_every_block_runs_and_prints_what_the_page_shows(tmp_path, environment):
    folder = tmp_path / "empty"
    folder.mkdir()
    for language, text in BLOCKS:
        if language == "console":
            run_console(text, folder, environment)
            continue
        name, lines = re.match(r"# (\S+)\n(.*)", text, flags=re.DOTALL).groups()
        if language == "diff":
            before, after = ("".join(re.findall(rf"^\{sign}(.*\n)", lines, flags=re.MULTILINE)) for sign in "-+")
            whole = (folder / name).read_text()
            assert whole.count(before) == 1
            lines = whole.replace(before, after)
        (folder / name).write_text(lines)


def test_all_blocks_are_of_the_kinds_that_are_tested():
    assert {language for language, _ in BLOCKS} == {"console", "diff", "python"}


def test_every_property_of_the_kit_is_in_the_table():
    described = set(re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", PAGE, flags=re.MULTILINE))))
    kit = {*ROW_PROPERTIES, *BATCH_PROPERTIES, *TRAINING_PROPERTIES}
    assert kit <= described
