"""Teachers that write text: requests, retries, prices, and the ledger of all that was asked.

    with Ledger("run/ledger.jsonl") as ledger:
        teacher = make_text_teacher({"kind": "endpoint", "url": url, "model": "m"}, ledger=ledger)
        answers = teacher.generate(["Write a question about cards."], seed=0, purpose="round 1")

They make data, not signals of a batch: a kind of teachers of its own, "text".
"""

from __future__ import annotations

from ..hookspecs import Register, RegisterCommand, RegisterKind, hookimpl


@hookimpl
def register_kinds(register: RegisterKind) -> None:
    """Teachers that write text."""
    register("teachers", "text", "text teacher")


@hookimpl
def register_teachers(register: Register) -> None:
    """A model in this process, and any endpoint that speaks like OpenAI's."""
    register("local", "hf_distill.serving.local:LocalTextTeacher", kind="text")
    register("endpoint", "hf_distill.serving.endpoint:EndpointTeacher", kind="text")


@hookimpl
def register_commands(register: RegisterCommand) -> None:
    """Looking into a ledger."""
    register("ledger", "hf_distill.serving.commands:ledger", help="Show what a teacher was asked and what that cost.")
