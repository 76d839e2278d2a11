"""What a run in rounds looks like: a line for every round, and at the end a table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from ..data.labelled_texts import LabelledTexts
from .class_report import ClassReport
from .driver import RoundsResult
from .files import RoundRecord, best_of

_NUM_WORST = 3


def print_data(data: LabelledTexts, console: Console) -> None:
    """How many rows there are of what."""
    parts = {"to validate with": data.validation, "to test with": data.test, "held out": data.held_out}
    counts = "".join(f", {len(rows):,} {use}" for use, rows in parts.items() if rows)
    console.print(
        f"data: {len(data.train):,} rows in {len(data.labels)} classes to begin with{counts}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def print_round(records: Sequence[RoundRecord], console: Console) -> None:
    """The last round in one line: how good, where it is worst, what was made and accepted, what it cost."""
    record = records[-1]
    report = record.report
    parts = [f"accuracy {report.accuracy:.3f}", f"loss {report.loss:.3f}"]
    if worst := report.worst(_NUM_WORST):
        parts.append("worst " + ", ".join(f"{name} {report.classes[name].f1:.2f}" for name in worst))
    if record.index:
        parts += [
            f"rows {record.num_rows} (+{record.num_accepted} of {record.num_proposed}{_rejects(record)})",
            _cost(record),
        ]
    else:
        parts.append(f"rows {record.num_rows}")
    best = "  best so far" if best_of(records) is record else ""
    line = f"round {record.index:2}  {'  '.join(parts)}{best}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    for problem in record.problems:
        console.print(f"          an answer without rows, {problem}", markup=False, highlight=False, soft_wrap=True)


def print_result(result: RoundsResult, test: ClassReport | None, console: Console) -> None:
    """Why the run stopped, the table of its rounds, and where the student is."""
    console.print(f"stopped: {result.stopped}", markup=False, highlight=False, soft_wrap=True)
    table = Table("round", *(header for header, _ in _COLUMNS))
    for record in result.records:
        mark = " *" if record.index == result.best.index else ""
        table.add_row(f"{record.index}{mark}", *(str(value(record)) for _, value in _COLUMNS))
    total = sum(record.num_requests for record in result.records)
    console.print(table)
    if test is not None:
        console.print(f"test: accuracy {test.accuracy:.3f}, macro F1 {test.macro.f1:.3f}", highlight=False)
    console.print(
        f"{total} requests; the student of round {result.best.index} (*) is in {result.folder}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if result.interrupted:
        console.print("More rounds would have come: start the run again to go on.", highlight=False)


def _rejects(record: RoundRecord) -> str:
    return "".join(f"; {reason} {count}" for reason, count in record.rejected.items())


def _cost(record: RoundRecord) -> str:
    money = "" if record.cost is None else f", cost {record.cost:.4f}"
    return f"requests {record.num_requests}, tokens {record.num_tokens:,}{money}"


_COLUMNS: tuple[tuple[str, Callable[[RoundRecord], object]], ...] = (
    ("rows", lambda record: record.num_rows),
    ("accepted", lambda record: f"{record.num_accepted}/{record.num_proposed}" if record.index else ""),
    ("loss", lambda record: f"{record.report.loss:.4f}"),
    ("accuracy", lambda record: f"{record.report.accuracy:.3f}"),
    ("macro F1", lambda record: f"{record.report.macro.f1:.3f}"),
    ("requests", lambda record: record.num_requests or ""),
    ("cost", lambda record: "" if record.cost is None else f"{record.cost:.4f}"),
)
