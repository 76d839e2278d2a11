"""``hf-distill ledger show PATH``: what a teacher was asked, what that cost, and what became of what it wrote."""

from __future__ import annotations

import argparse
import json

from .ledger import read_entries
from .summary import LedgerSummary, summarize


def ledger(argv: list[str]) -> int:
    """Print the sums over a ledger as tables or as JSON."""
    parser = argparse.ArgumentParser(prog="hf-distill ledger", description="Read the ledger of a text teacher.")
    actions = parser.add_subparsers(dest="action", required=True)
    show = actions.add_parser("show", help="print cost, answers by status, and rows by outcome and by class")
    show.add_argument("path", help="the ledger, or the folder that it is in")
    show.add_argument("--purpose", help="only the requests made for this, for instance 'round 3'")
    show.add_argument("--json", action="store_true", help="print JSON, for programs")
    options = parser.parse_args(argv)
    summary = summarize(read_entries(options.path), purpose=options.purpose)
    if options.json:
        print(json.dumps(summary.as_dict(), indent=2))
    else:
        _print_tables(summary)
    return 0


def _print_tables(summary: LedgerSummary) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    spent = Table("requests", "attempts", "tokens read", "tokens written", "cost", title="spent")
    counts = (summary.num_requests, summary.num_attempts, summary.prompt_tokens, summary.completion_tokens)
    spent.add_row(*map(str, counts), _cost(summary))
    console.print(spent)
    for title, column, numbers in (
        ("answers", "status", summary.answers),
        ("attempts", "model", summary.models),
        ("parsed answers", "outcome", summary.parses),
        ("rows", "outcome", _outcomes(summary)),
    ):
        if numbers:
            table = Table(column, "number", title=title)
            for name, number in numbers.items():
                table.add_row(Text(name), str(number))
            console.print(table)
    if summary.classes:
        classes = Table("class", "accepted", "rejected", "examples", title="classes")
        for name, of_class in summary.classes.items():
            examples = "\n".join(_one_line(row) for row in of_class.examples)
            classes.add_row(Text(name), str(of_class.accepted), str(of_class.rejected), Text(examples))
        console.print(classes)


def _cost(summary: LedgerSummary) -> str:
    unknown = f"{summary.num_unknown_cost} answers of unknown cost" if summary.num_unknown_cost else ""
    known = "" if summary.cost is None else f"{summary.cost:.6g}"
    return " + ".join(filter(None, [known, unknown])) or "0"


def _outcomes(summary: LedgerSummary) -> dict[str, int]:
    accepted = {"accepted": summary.num_accepted} if summary.num_rows else {}
    return accepted | {f"rejected: {reason or 'no reason given'}": n for reason, n in summary.rejected.items()}


def _one_line(row: dict[str, object]) -> str:
    text = row.get("text")
    line = " ".join((text if isinstance(text, str) else json.dumps(row, ensure_ascii=False)).split())
    return line if len(line) <= 80 else f"{line[:77]}..."
