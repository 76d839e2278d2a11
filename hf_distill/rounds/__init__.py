"""Trainings in rounds, on data that is generated between them."""

from __future__ import annotations

from ..hookspecs import RegisterCommand, RegisterKind, hookimpl


@hookimpl
def register_kinds(register: RegisterKind) -> None:
    """Generators of data between rounds."""
    register("generators", "round", "round generator")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Running rounds."""
    register("rounds", "hf_distill.rounds.commands:rounds", help="Train in rounds, on data asked for between them.")
