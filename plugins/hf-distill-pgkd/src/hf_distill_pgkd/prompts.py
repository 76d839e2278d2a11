"""The prompt: a Jinja template that anybody may replace, and what it is filled with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import SandboxedEnvironment

from hf_distill import ClassReport

DEFAULT_TEMPLATE = Path(__file__).with_name("prompt.jinja")
VARIABLES = ("labels", "few_shot", "num_rows", "report", "correct", "incorrect", "hard_negatives")


def load_template(path: str | Path | None = None) -> Template:
    """The template at `path`, or the one that comes with the plugin.

    It may use `VARIABLES`, and the filter ``json``, which writes a row on one line.

    Raises:
        ValueError: there is no such file, or it is no template.
    """
    environment = SandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=False
    )
    environment.filters["json"] = lambda row: json.dumps(row, ensure_ascii=False)
    file = Path(path) if path is not None else DEFAULT_TEMPLATE
    try:
        template = environment.from_string(file.read_text(encoding="utf-8"))
        render(template, dict.fromkeys(VARIABLES, ()))
    except OSError as error:
        raise ValueError(f"The prompt's template cannot be read: {error}") from error
    except TemplateError as error:
        raise ValueError(f"{file} is no template of a prompt ({error}); it may use {', '.join(VARIABLES)}.") from error
    return template


def render(template: Template, values: Mapping[str, Any]) -> str:
    """The prompt."""
    return template.render(**values).strip()


def full_report(report: ClassReport) -> str:
    """A line for every class, as the paper has it, and the averages."""
    return _table(report, list(report.classes))


def compact_report(report: ClassReport, *, num_classes: int) -> str:
    """The worst classes and the averages: what fits in a prompt where there are hundreds of classes."""
    worst = report.worst(num_classes)
    left_out = len(report.classes) - len(worst)
    note = f"(the {len(worst)} worst classes; {left_out} others are left out)"
    return f"{_table(report, worst)}\n{note}" if left_out else _table(report, worst)


def _table(report: ClassReport, names: list[str]) -> str:
    lines = [f"accuracy {report.accuracy:.3f}"]
    scores = {**{name: report.classes[name] for name in names}, "macro average": report.macro}
    for name, one in {**scores, "weighted average": report.weighted}.items():
        figures = f"precision {one.precision:.2f}, recall {one.recall:.2f}, f1 {one.f1:.2f}, support {one.support}"
        lines.append(f"{name}: {figures}")
    return "\n".join(lines)
