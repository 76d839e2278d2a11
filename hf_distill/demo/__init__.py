"""The demo: a student distilled in three ways on this machine, from start to report."""

from __future__ import annotations

from ..hookspecs import RegisterCommand, hookimpl


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Running it."""
    register("demo", "hf_distill.demo.command:demo", help="Distil a tiny model on this machine, from start to report.")
