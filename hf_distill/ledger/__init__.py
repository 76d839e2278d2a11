"""The ledger: what was asked of a teacher, what it answered, what that cost, and what became of every generated row.

    with Ledger("run/ledger.jsonl") as ledger:
        teacher = make_text_teacher({"kind": "endpoint", "url": url, "model": "m"}, ledger=ledger)
        answers = teacher.generate(["Write a question about cards."], seed=0, purpose="round 1")
        ledger.fate(answers[0].request_id, 0, {"text": "Is my card lost?", "label": "cards"}, accepted=True)
    print(ledger.summary().cost)

`answers` holds what an answer is, `lines` the file, `book` the ledger itself, `summary` the sums over it.
"""

from __future__ import annotations

from .answers import STATUSES as STATUSES
from .answers import Answer as Answer
from .answers import Usage as Usage
from .book import LEDGER_NAME as LEDGER_NAME
from .book import Ledger as Ledger
from .book import read_entries as read_entries
from .summary import LedgerSummary as LedgerSummary
from .summary import summarize as summarize
