"""The `hf-distill` command: finds the sub-command that was named, runs it, and says in one line what went wrong.

Sub-commands come from plugins, all that are installed. One is a function of the remaining command line that returns the
exit status; it is imported only when it runs, so that ``hf-distill --help`` does not import torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from .._version import __version__
from ..plugins.manager import Plugins
from ..plugins.registry import PluginError

PLUGINS_VARIABLE = "HF_DISTILL_PLUGINS"


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``hf-distill`` with `argv` (by default the process's own) and return the exit status.

    0 is success, 2 a mistake in what was asked for, 130 an interruption; sub-commands may return others.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        return _run(parser, options)
    except BrokenPipeError:  # whoever reads what is printed has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python fails once more when it ends
        return 0
    except (ValueError, OSError, PluginError) as error:
        if options.debug:
            raise
        _print_error(" ".join([str(error), *getattr(error, "__notes__", [])]))
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def active_plugins() -> Plugins:
    """The plugins that the command line or the environment names beside those of which a component is named."""
    names = os.environ.get(PLUGINS_VARIABLE, "").split(",")
    return Plugins([name.strip() for name in names if name.strip()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-distill",
        usage="hf-distill [options] command ...",
        description="Train a small model under the guidance of big ones.",
        add_help=False,  # the help lists commands, so plugins come first
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and exit")
    parser.add_argument("--version", action="version", version=f"hf-distill {__version__}")
    parser.add_argument(
        "--plugins",
        metavar="NAMES",
        help=f"local files, or -NAME for a plugin to leave out, separated by commas (default: ${PLUGINS_VARIABLE})",
    )
    parser.add_argument("--debug", action="store_true", help="show the whole traceback of an error")
    parser.add_argument("command", nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.plugins is not None:
        # Sub-commands see the same plugins, and so do the processes that they start.
        os.environ[PLUGINS_VARIABLE] = options.plugins
    plugins = active_plugins()
    if options.help or options.command is None:
        commands = [component for component in plugins.available()[0] if component.family == "commands"]
        lines = [f"  {_hyphenated(command.name):<14}  {command.help}".rstrip() for command in commands]
        parser.epilog = "\n".join(["commands:", *lines, "", "hf-distill <command> --help says more about a command."])
        parser.print_help(sys.stdout if options.help else sys.stderr)
        return 0 if options.help else 2
    command = plugins.commands.get(options.command.replace("-", "_"))
    status: int = command.resolve()(options.arguments)
    return status


def _hyphenated(name: str) -> str:
    """A component's name as one writes it on a command line."""
    return name.replace("_", "-")


def _print_error(message: str) -> None:
    from rich.console import Console

    console = Console(stderr=True, soft_wrap=True)
    console.print("error:", style="bold red", end=" ")
    console.print(message, style="red", markup=False, highlight=False)
