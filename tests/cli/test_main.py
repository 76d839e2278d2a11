from __future__ import annotations

import subprocess
import sys

import pytest

import hf_distill
from hf_distill.cli.main import main

COMMANDS = """
import hf_distill


@hf_distill.hookimpl
def register_commands(register):
    register("echo", echo, help="Repeat the arguments.")
    register("fail", fail)
    register("interrupt", interrupt)


def echo(argv):
    print(argv)
    return 3


def fail(argv):
    raise {"value": ValueError, "os": OSError, "plugin": plugin_error, "bug": KeyError}[argv[0]]("what [went] wrong")


def plugin_error(message):
    return hf_distill.PluginError("a (b 1.0)", message)


def interrupt(argv):
    raise KeyboardInterrupt
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DISTILL_PLUGINS", "")  # main changes it; restored after the test
    path = tmp_path / "commands.py"
    path.write_text(COMMANDS)
    return str(path)


def test_help_lists_commands_of_named_plugins_only(plugin, capsys):
    assert main(["--help"]) == 0
    output = capsys.readouterr().out
    assert "plugins  " in output
    assert "echo" not in output
    assert main(["--plugins", plugin, "--help"]) == 0
    assert "Repeat the arguments." in capsys.readouterr().out


def test_the_environment_names_plugins_too(plugin, monkeypatch, capsys):
    monkeypatch.setenv("HF_DISTILL_PLUGINS", f" {plugin} ,")
    assert main(["echo"]) == 3
    assert capsys.readouterr().out == "[]\n"


def test_no_command_is_not_success(plugin, capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_arguments_of_a_command_reach_it_untouched_and_its_status_is_returned(plugin, capsys):
    argv = ["--help", "-x", "a b", "--plugins", "--", "--debug", "c"]
    assert main(["--plugins", plugin, "echo", *argv]) == 3
    assert capsys.readouterr().out == f"{argv}\n"


@pytest.mark.parametrize("kind", ["value", "os", "plugin"])
def test_a_users_mistake_is_one_line_and_status_2(plugin, capsys, kind):
    assert main(["--plugins", plugin, "fail", kind]) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ")
    assert output.err.count("\n") == 1
    assert "what [went] wrong" in output.err, "square brackets are no mark-up"
    assert not output.out


def test_debug_shows_the_traceback(plugin):
    with pytest.raises(ValueError, match="wrong"):
        main(["--plugins", plugin, "--debug", "fail", "value"])


def test_a_defect_is_not_disguised_as_a_users_mistake(plugin):
    with pytest.raises(KeyError):
        main(["--plugins", plugin, "fail", "bug"])


def test_an_interruption_is_one_line_and_status_130(plugin, capsys):
    assert main(["--plugins", plugin, "interrupt"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_an_unknown_command_or_plugin_suggests_the_nearest(plugin, capsys):
    assert main(["plugns"]) == 2
    assert "did you mean 'plugins'?" in capsys.readouterr().err
    assert main(["--plugins", "no_such_plugin", "plugins"]) == 2
    assert "there is no plugin 'no_such_plugin'" in capsys.readouterr().err


def test_launchers_can_start_it_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "hf_distill.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"hf-distill {hf_distill.__version__}\n"
