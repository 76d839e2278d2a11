"""PGKD: Performance-Guided LLM Knowledge Distillation for Efficient Text Classification (2024, arXiv:2411.05045)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_distill import hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable


@hookimpl
def register_generators(register: Callable[..., None]) -> None:
    """Rows asked for by the student's validation report and its confident mistakes."""
    register("pgkd", "hf_distill_pgkd.generator:PGKDGenerator", kind="round")


@hookimpl
def register_teachers(register: Callable[..., None]) -> None:
    """A stand-in for a language model, for experiments: it owns labelled texts."""
    register("retrieval", "hf_distill_pgkd.retrieval:RetrievalTeacher", kind="text")
