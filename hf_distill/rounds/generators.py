"""Generators of training data between rounds: what one is, and what it gets to see.

A generator looks at a student that has just been trained and validated, and proposes rows that it should learn from
next. Mostly it writes prompts for a text teacher and lets `RoundContext.ask` do the asking; one that needs no teacher
(a student that imitates its own best samples) proposes rows with an empty request. Checking, recording, training and
choosing the best round are the driver's (`hf_distill.rounds.driver`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from ..serving.answers import Answer
from ..serving.ledger import Ledger
from .class_report import ClassReport
from .parsing import parse_items

ErrorSource = Literal["none", "train", "out_of_fold", "held_out"]
Row = Mapping[str, Any]


class TextSource(Protocol):
    """What a generator needs of a text teacher."""

    def generate(self, prompts: Sequence[str], *, seed: int, purpose: str) -> list[Answer]:
        """The answers to `prompts`, in their order."""


@dataclass(frozen=True)
class Predictions:
    """What the student says about some rows.

    Attributes:
        rows: the rows, each with its true ``label``.
        labels: the predicted class of each by name.
        confidences: the probability that the student gives it.
    """

    rows: Sequence[Row] = ()
    labels: Sequence[str] = ()
    confidences: Sequence[float] = ()


@dataclass(frozen=True)
class ProposedRow:
    """A row that a generator proposes, and where it comes from.

    Attributes:
        fields: the row; the driver checks it, so it may be anything that JSON holds.
        request_id: the ledger's request that it answers; empty where no teacher was asked.
        index: its position in that answer.
    """

    fields: Any
    request_id: str = ""
    index: int = 0


@dataclass
class RoundContext:
    """What a generator may look at and use in one round; it exists on the first process only.

    Attributes:
        index: the round to propose rows for, from 1.
        labels: the taxonomy, names in the order of their ids; empty where the task has no classes.
        seed_rows: the training rows that the run began with.
        rows: all training rows, those of earlier rounds included.
        report: the validation report of the student as it is. Validation texts are not here, on purpose: a teacher
            that sees them writes them into the training set, and validation measures nothing any more.
        errors_of: the student's predictions on the rows that the generator's `error_source` names.
        predict: the student itself: texts in, predictions out (their rows have no label).
        student_folder: where the student's weights and tokenizer are, for a generator that samples from it.
        seed: of the whole run; what is drawn once is drawn from it.
        rng: of this round, the same in a resumed run.
        teacher: who is asked, or None.
        ledger: the record of everything asked.
        asked: all rows that `ask` has given so far; what was paid for is trained on even where the budget ends before
            the generator is done.
    """

    index: int
    labels: tuple[str, ...]
    seed_rows: Sequence[Row]
    rows: Sequence[Row]
    report: ClassReport
    errors_of: Predictions
    predict: Callable[[Sequence[str]], Predictions]
    student_folder: str
    seed: int
    rng: random.Random
    teacher: TextSource | None
    ledger: Ledger
    asked: list[ProposedRow] = field(default_factory=list, init=False)

    @property
    def purpose(self) -> str:
        """What requests of this round are called in the ledger."""
        return f"round {self.index}"

    def ask(self, prompt: str, *, num_rows: int) -> list[ProposedRow]:
        """Ask the teacher for `num_rows` rows as a JSON list, once more where the answer cannot be read.

        The parse, a refusal and a time-out are written into the ledger. Fewer rows than asked for are taken as they
        are; of more, the driver rejects the rest.

        Returns:
            The rows; none where the teacher refused, failed, or wrote nothing legible twice.

        Raises:
            ValueError: the run has no teacher.
            Exception: what the teacher raises where nobody may or can be asked any more; to be left to the driver.
        """
        if self.teacher is None:
            raise ValueError("This generator asks a text teacher, but the run has none; give it one.")
        answer = self._ask_once(prompt)
        try:
            return self._read(answer, num_rows)
        except ValueError as error:
            problem = str(error)
        if answer.status != "answered":  # asking again for what was refused, or went unanswered after many attempts
            return []
        correction = (
            f"{prompt}\n\nYour last answer could not be used: {problem}. Answer again, with nothing but a JSON list of "
            f"{num_rows} objects."
        )
        answer = self._ask_once(correction)
        try:
            return self._read(answer, num_rows)
        except ValueError:
            return []  # counted in the ledger

    def _ask_once(self, prompt: str) -> Answer:
        assert self.teacher is not None
        # Another seed in every round: two rounds whose prompts are equal are still two requests.
        return self.teacher.generate([prompt], seed=self.seed + self.index, purpose=self.purpose)[0]

    def _read(self, answer: Answer, num_rows: int) -> list[ProposedRow]:
        """The rows of an answer, with a note in the ledger.

        Raises:
            ValueError: there are none.
        """
        name = answer.request_id
        if answer.status != "answered":
            self.ledger.parse(name, answer.status, num_rows=0, detail=answer.error)
            raise ValueError(answer.status)
        try:
            parsed = parse_items(answer.text or "")
        except ValueError as error:
            self.ledger.parse(name, "rejected", num_rows=0, detail=str(error))
            raise
        items = parsed.items
        if answer.finish_reason == "length" and not parsed.truncated:
            # The list was closed by chance, or by the server; what it was cut in the middle of is the last item.
            items = items[:-1]
        detail = "" if len(items) == num_rows else f"{len(items)} rows instead of {num_rows}"
        self.ledger.parse(name, "parsed", num_rows=len(items), detail=detail)
        rows = [ProposedRow(item, name, index) for index, item in enumerate(items)]
        self.asked += rows
        return rows


class RoundGenerator:
    """Makes training rows from round to round.

    Subclasses define `propose`. They keep no state from round to round: a run that was killed goes on with a new
    object, and everything that a round depends on is in its context.

    Attributes:
        error_source: which predictions `RoundContext.errors_of` holds. "train": on the training rows, by the student
            that was trained on them. "out_of_fold": on the training rows, each by a student that was trained without
            it (several trainings a round). "held_out": on rows that are neither trained nor validated on. "none".
        num_rows: how many rows `propose` asks for; more are rejected.
    """

    error_source: ErrorSource = "none"
    num_rows: int = 32
    needs_teacher: ClassVar[bool] = True

    def propose(self, context: RoundContext) -> Sequence[ProposedRow]:
        """The rows for this round; called on the first process, and all processes train on them."""
        raise NotImplementedError(f"{type(self).__name__} does not define propose(context).")
