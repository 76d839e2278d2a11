"""`RoundsDriver`: train, validate, ask for rows where the student is weak, train on, and keep the best round.

    task = TextClassification("path/of/student", labels=labels, validation=validation, training={...})
    driver = RoundsDriver(task, generator, rows=rows, validation=validation, output_dir="out", teacher={...})
    result = driver.run()
    result.best.report.accuracy, result.folder

A run that was killed is started again in the same way. It goes on where it stopped, asks for nothing twice (the ledger
has the answers) and comes to the same rounds.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..drivers.files import read_json, write_folder, write_json
from ..drivers.first_process import is_first_process, on_first_process
from ..plugins.manager import Plugins
from ..serving.budget import Budget, BudgetExhausted
from ..serving.text_teacher import TeacherUnavailable
from .checks import RowChecker, RowChecks
from .class_report import ClassReport
from .files import RoundFiles, RoundRecord, best_of
from .generators import Predictions, RoundContext, RoundGenerator, Row
from .tasks import RoundTask
from .teacher_session import DryRunFinished, DryRunTeacher, TeacherSession


@dataclass(frozen=True)
class RoundsResult:
    """The end of a run.

    Attributes:
        records: its rounds.
        best: the one with the lowest validation loss.
        stopped: why there were no more.
        folder: the best round's student.
        interrupted: whether more rounds would have come, had there been budget or a teacher.
    """

    records: Sequence[RoundRecord]
    best: RoundRecord
    stopped: str
    folder: Path
    interrupted: bool = False


class RoundsDriver:
    """Trains a student in rounds, each on rows that a generator made for what the student could not do before.

    Round 0 trains on the given rows. Every later one reports on the validation rows, lets the generator propose rows,
    checks them, adds those accepted to the training set, and trains on: the weights of the last round, a fresh
    optimizer and schedule. The round of the lowest validation loss is kept.

    Only the first process asks and writes; all of them train on the same rows.

    Args:
        task: what is trained.
        generator: who proposes rows.
        rows: labelled rows to begin with, ``{"text": ..., "label": name}``.
        validation: labelled rows to report and choose by.
        output_dir: see `hf_distill.rounds.files`; shared by all processes.
        teacher: a text teacher, or what `make_text_teacher` takes; None for a generator that asks nobody.
        budget: ``{"requests": ..., "tokens": ..., "money": ...}``, or a `Budget`.
        held_out: labelled rows whose errors may be shown to the teacher, for ``error_source="held_out"``.
        forbidden: further texts that must not become training data: those of the test set.
        checks: limits of the checks on proposed rows, or a mapping of them.
        num_rounds: how many rounds of generation there are at most.
        patience: how many rounds may follow the best one.
        num_folds: how many students ``error_source="out_of_fold"`` trains in a round.
        seed: decides everything that is drawn.
        plugins: where kinds of teachers are registered.
        on_round: called on the first process with the records after every round.

    Raises:
        ValueError: no rows, labels outside the taxonomy, no teacher where one is needed, or numbers out of range.
    """

    def __init__(
        self,
        task: RoundTask,
        generator: RoundGenerator,
        *,
        rows: Sequence[Row],
        validation: Sequence[Row],
        output_dir: str | Path,
        teacher: Any = None,
        budget: Budget | Mapping[str, Any] | None = None,
        held_out: Sequence[Row] = (),
        forbidden: Sequence[str] = (),
        checks: RowChecks | Mapping[str, Any] | None = None,
        num_rounds: int = 10,
        patience: int = 5,
        num_folds: int = 5,
        seed: int = 0,
        plugins: Plugins | None = None,
        on_round: Callable[[Sequence[RoundRecord]], None] | None = None,
    ) -> None:
        self.task = task
        self.generator = generator
        self.rows = [dict(row) for row in rows]
        self.validation = [dict(row) for row in validation]
        self.held_out = [dict(row) for row in held_out]
        self.forbidden = [row["text"] for row in self.validation] + list(forbidden)
        self.checks = RowChecks.parse(checks)
        self.num_rounds = num_rounds
        self.patience = patience
        self.num_folds = num_folds
        self.seed = seed
        self.files = RoundFiles(output_dir)
        self.on_round = on_round
        self._teacher_spec = teacher
        self._budget = Budget(**budget) if isinstance(budget, Mapping) else budget
        self.plugins = plugins or Plugins()
        self._check_arguments()

    def run(self) -> RoundsResult:
        """Run the rounds that are left, and give the best student.

        Raises:
            ValueError: `output_dir` holds a run on other data, or another process is writing to it.
        """
        with self._session() as session:
            records = self._start()
            stopped, interrupted = self._reason(records), False
            while stopped is None:
                record, interruption = self._round(len(records), session)
                if record is not None:
                    records.append(record)
                    self._keep(records)
                stopped = interruption or self._reason(records)
                interrupted = interruption is not None
            on_first_process(lambda: self._finish(records, stopped))
        return RoundsResult(records, best_of(records), stopped, self.files.best_model, interrupted)

    def first_prompts(self) -> list[str]:
        """The prompts of the next round, asking nobody; round 0 is trained and kept where it has not been yet."""
        catcher = DryRunTeacher()
        with self._session(catcher) as session:
            records = self._start()
            index = len(records)
            student = self.files.model(index - 1)
            try:
                self.generator.propose(self._context(index, records, self._errors(index, student), session, student))
            except DryRunFinished:
                pass
        return catcher.prompts

    # ---- One round ----

    def _start(self) -> list[RoundRecord]:
        """The rounds there are; round 0 is made where there is none."""
        found = on_first_process(lambda: [record.to_json() for record in self.files.read_records(self._fingerprint)])
        records = [RoundRecord.from_json(value) for value in found]
        if not records:
            on_first_process(self._create)
            report = self._train(0, self.files.initial, self.rows)
            records = [RoundRecord(index=0, num_rows=len(self.rows), report=report)]
            self._keep(records)
        return records

    def _create(self) -> None:
        if not self.files.initial.exists():
            write_folder(self.files.initial, lambda folder: self.task.create(folder, self.rows))

    def _round(self, index: int, session: TeacherSession) -> tuple[RoundRecord | None, str | None]:
        """The record of a round, and what interrupts the run; no record where there was nothing new to train on."""
        start = self.files.model(index - 1)
        interruption = None
        if on_first_process(lambda: self.files.read_rows(index) is None):
            errors = self._errors(index, start)
            interruption = on_first_process(lambda: self._propose(index, errors, session, start))
        proposed = on_first_process(lambda: self.files.read_rows(index))
        if proposed is None:
            return None, interruption
        rows = self._rows_until(index)
        report = self._train(index, start, rows)
        accepted = sum(not row["reason"] for row in proposed)
        spent = on_first_process(lambda: session.spent(index))
        record = RoundRecord(
            index=index,
            num_rows=len(rows),
            report=report,
            num_proposed=len(proposed),
            num_accepted=accepted,
            rejected=dict(Counter(row["reason"] for row in proposed if row["reason"]).most_common()),
            **spent,
        )
        return record, interruption

    def _propose(self, index: int, errors: Predictions, session: TeacherSession, student: Path) -> str | None:
        """Let the generator propose, check every row, and keep them all; gives what interrupts the run, if anything."""
        records = self.files.read_records(self._fingerprint)
        context = self._context(index, records, errors, session, student)
        interruption = None
        try:
            proposed = list(self.generator.propose(context))
        except TeacherUnavailable as error:
            return str(error)  # the round stays open for a later run; its answers so far are in the ledger
        except BudgetExhausted as error:
            interruption = str(error)
            proposed = context.asked  # paid for
            if not proposed:
                return interruption
        checker = RowChecker(
            self.task.labels,
            train=[row["text"] for row in context.rows],
            forbidden=self.forbidden,
            checks=self.checks,
        )
        verdicts = checker.check_round([row.fields for row in proposed], num_asked=self.generator.num_rows)
        written = []
        for row, verdict in zip(proposed, verdicts, strict=True):
            session.record(row, verdict.row, verdict.reason)
            written.append({"row": verdict.row or row.fields, "reason": verdict.reason, "request_id": row.request_id})
        self.files.write_rows(index, written)
        return interruption

    def _context(
        self, index: int, records: Sequence[RoundRecord], errors: Predictions, session: TeacherSession, student: Path
    ) -> RoundContext:
        def predict(texts: Sequence[str]) -> Predictions:
            return self.task.open(student).predict([{"text": text} for text in texts])

        assert session.ledger is not None  # contexts are made on the first process
        return RoundContext(
            index=index,
            labels=self.task.labels,
            seed_rows=self.rows,
            rows=self._rows_before(index),
            report=records[index - 1].report,
            errors_of=errors,
            predict=predict,
            student_folder=str(student),
            seed=self.seed,
            rng=random.Random(f"{self.seed}:{index}"),
            teacher=session.teacher,
            ledger=session.ledger,
        )

    def _train(self, index: int, start: Path, rows: Sequence[Row]) -> ClassReport:
        """Train the student of a round, where it has not been yet, and report on it."""
        if not on_first_process(self.files.model(index).exists):
            folder = self.files.model(index)
            self.task.fit(start, rows, folder, seed=self.seed + index, title=f"round {index}", first=index == 0)
        value = on_first_process(lambda: self.task.open(self.files.model(index)).report(self.validation).to_json())
        return ClassReport.from_json(value)

    # ---- What the generator is shown ----

    def _errors(self, index: int, student: Path) -> Predictions:
        """The predictions on the rows of the generator's `error_source`; on the first process, empty elsewhere."""
        path = self.files.round(index) / "predictions.json"
        source = self.generator.error_source
        # A dry run may have left those of another source.
        if on_first_process(lambda: (read_json(path) or {}).get("source") == source):
            return Predictions(**read_json(path)["predictions"]) if is_first_process() else Predictions()
        rows = self.held_out if source == "held_out" else on_first_process(lambda: self._rows_before(index))
        predictions = Predictions()
        if source == "out_of_fold":
            predictions = self._out_of_fold(index, rows)

        def finish() -> None:
            nonlocal predictions
            if source in ("train", "held_out"):
                predictions = self.task.open(student).predict(rows)
            write_json(path, {"source": source, "predictions": vars(predictions)})
            for folder in self.files.round(index).glob("fold-*"):
                shutil.rmtree(folder)

        on_first_process(finish)
        return predictions

    def _out_of_fold(self, index: int, rows: Sequence[Row]) -> Predictions:
        """Predictions on each row by a student, trained from the beginning, that has not seen it; collective."""
        fold_of = [position % self.num_folds for position in range(len(rows))]
        random.Random(f"{self.seed}:{index}:folds").shuffle(fold_of)
        labels, confidences = [""] * len(rows), [0.0] * len(rows)
        for fold in range(self.num_folds):
            folder = self.files.round(index) / f"fold-{fold}"
            left_out = [position for position, its_fold in enumerate(fold_of) if its_fold == fold]
            kept = [row for row, its_fold in zip(rows, fold_of, strict=True) if its_fold != fold]
            title = f"round {index}, fold {fold + 1} of {self.num_folds}"
            if not on_first_process(folder.exists):
                self.task.fit(self.files.initial, kept, folder, seed=self.seed + index, title=title, first=True)
            predicted = on_first_process(partial(self._predict, folder, [rows[position] for position in left_out]))
            for position, label, confidence in zip(left_out, *predicted, strict=True):
                labels[position], confidences[position] = label, confidence
        return Predictions(rows, labels, confidences)

    def _predict(self, folder: Path, rows: Sequence[Row]) -> tuple[list[str], list[float]]:
        found = self.task.open(folder).predict(rows)
        return list(found.labels), list(found.confidences)

    # ---- The run as a whole ----

    def _session(self, teacher: DryRunTeacher | None = None) -> TeacherSession:
        return TeacherSession(
            self.files.folder, self._teacher_spec, budget=self._budget, plugins=self.plugins, teacher=teacher
        )

    def _reason(self, records: Sequence[RoundRecord]) -> str | None:
        """Why there is no further round; None where there is one."""
        if len(records) > self.num_rounds:
            return f"all {self.num_rounds} rounds are done"
        if records[-1].index - best_of(records).index >= self.patience:
            return f"the validation loss has not fallen for {self.patience} rounds"
        return None

    def _rows_before(self, index: int) -> list[dict[str, Any]]:
        """The training rows at the beginning of a round, from the files."""
        accepted = [
            row["row"]
            for earlier in range(1, index)
            for row in self.files.read_rows(earlier) or ()
            if not row["reason"]
        ]
        return self.rows + accepted

    def _rows_until(self, index: int) -> list[dict[str, Any]]:
        return on_first_process(lambda: self._rows_before(index + 1))

    def _keep(self, records: Sequence[RoundRecord]) -> None:
        def keep() -> None:
            self.files.write_records(self._fingerprint, records)
            self.files.keep_models({best_of(records).index, records[-1].index})
            if self.on_round is not None:
                self.on_round(records)

        on_first_process(keep)

    def _finish(self, records: Sequence[RoundRecord], stopped: str) -> None:
        self.files.publish(best_of(records).index)
        self.files.write_records(self._fingerprint, records, stopped=stopped)

    @property
    def _fingerprint(self) -> str:
        """Of what may not change when a run goes on; more rounds, patience or budget may be given to it."""
        content = [self.rows, self.validation, list(self.task.labels), self.task.settings(), self.seed]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _check_arguments(self) -> None:
        for name, rows in (("rows", self.rows), ("validation", self.validation)):
            if not rows:
                raise ValueError(f"{name} is empty; give labelled rows: {{'text': ..., 'label': ...}}.")
        for row in (*self.rows, *self.validation, *self.held_out):
            if not isinstance(row.get("text"), str):
                raise ValueError(f"A row has the text {row.get('text')!r}; expected {{'text': ..., 'label': ...}}.")
            if row.get("label") not in self.task.labels:
                raise ValueError(f"The label {row.get('label')!r} of a row is not among {list(self.task.labels)}.")
        if self.num_rounds < 0 or self.patience < 1 or self.num_folds < 2:
            raise ValueError(
                f"num_rounds is {self.num_rounds}, patience {self.patience}, num_folds {self.num_folds}; expected at "
                "least 0, 1 and 2."
            )
        if self.generator.needs_teacher and self._teacher_spec is None:
            raise ValueError("The generator asks a text teacher, and there is none; give teacher={'kind': ..., ...}.")
        if self.generator.error_source == "held_out" and not self.held_out:
            raise ValueError("error_source is held_out, and held_out is empty; give labelled rows, or another source.")
