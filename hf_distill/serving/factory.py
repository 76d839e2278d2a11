"""From what a user writes to a text teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..plugins.manager import Plugins
from .budget import Budget
from .ledger import Ledger
from .text_teacher import TextTeacher


def make_text_teacher(
    spec: Any, *, plugins: Plugins | None = None, ledger: Ledger | None = None, budget: Budget | None = None
) -> TextTeacher:
    """The text teacher that `spec` describes, with its ledger and budget.

    Args:
        spec: ``{"kind": "endpoint", "url": ..., "model": ...}`` or another kind with its options; a `TextTeacher`; or a
            model, a folder or a hub name, for a model in this process.
        plugins: where kinds are registered; by default those of the core.
        ledger: where requests and answers are kept.
        budget: what may be spent.

    Raises:
        ValueError: an unknown kind or option.
    """
    if isinstance(spec, TextTeacher):
        teacher = spec
    elif spec is None:
        raise ValueError("There is no teacher; give {'kind': 'endpoint', 'url': ..., 'model': ...} or a model.")
    else:
        options = dict(spec) if isinstance(spec, Mapping) else {"kind": "local", "model": spec}
        kind = options.pop("kind", "local")
        registry = (plugins or Plugins()).registry("teachers", "text")
        teacher = registry.create(kind, options)
        if not isinstance(teacher, TextTeacher):
            raise ValueError(f"{registry.get(kind)} makes a {type(teacher).__name__}; expected a TextTeacher.")
    teacher.attach(ledger=ledger, budget=budget)
    return teacher
