"""The generator: shows a teacher how the student does, and asks for the samples that would help it most."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from hf_distill import ProposedRow, RoundContext, RoundGenerator

from .buckets import draw_buckets
from .prompts import compact_report, full_report, load_template, render

Report = Literal["full", "compact", "none"]
ErrorSource = Literal["train", "out_of_fold", "held_out"]


class PGKDGenerator(RoundGenerator):
    """Asks for training samples, guided by the student's validation report and its mistakes.

    After the paper's description (there is no official code). In every round the prompt holds, in this order: the role,
    the classes, few-shot examples (drawn once), the request for a JSON list of `num_rows` samples, the objective with
    the validation report of every class, samples that the student gets right, samples that it gets wrong, and hard
    negatives: the errors that it is most confident of. The texts of the validation set are never in it.

    What the paper leaves open, or where this differs:

    1. Hard negatives and incorrect samples come from the same errors; a text is shown once, as a hard negative first.
    2. The paper takes errors from the training set, on which a student that was trained to its end makes few or none.
       `error_source` keeps that as the default; "out_of_fold" and "held_out" have errors to show.
    3. `report="compact"` shows the worst classes and averages only: a deviation, for hundreds of classes.
    4. A long text is cut to `max_text_characters` in the prompt.

    Rounds, patience and the choice of the best round are `hf_distill.RoundsDriver`'s, with the paper's figures: 10
    rounds, patience 5 on the validation loss; the counter starts again with every new best round.

    Args:
        num_rows: samples to ask for in a round.
        num_few_shot: labelled samples that are drawn once, from the rows that the run began with.
        num_correct: samples that the student gets right.
        num_incorrect: samples that it gets wrong.
        num_hard_negatives: those that it gets wrong with the highest confidence.
        report: "full" for every class, "compact" for the worst, "none".
        num_report_classes: how many classes a compact report shows.
        error_source: "train" (the paper), "out_of_fold" or "held_out"; see `hf_distill.RoundGenerator`.
        template: path of a Jinja template for the prompt, in place of the plugin's ``prompt.jinja``.
        max_text_characters: of a text in the prompt.

    Raises:
        ValueError: an option out of its range, or a template that cannot be used.

    Paper: "Performance-Guided LLM Knowledge Distillation for Efficient Text Classification at Scale" (EMNLP 2024
        Industry Track), arXiv:2411.05045, Algorithm 1 and Appendix A.1.
    """

    def __init__(
        self,
        *,
        num_rows: int = 32,
        num_few_shot: int = 16,
        num_correct: int = 16,
        num_incorrect: int = 16,
        num_hard_negatives: int = 16,
        report: Report = "full",
        num_report_classes: int = 30,
        error_source: ErrorSource = "train",
        template: str | None = None,
        max_text_characters: int = 1000,
    ) -> None:
        counts = {
            "num_few_shot": num_few_shot,
            "num_correct": num_correct,
            "num_incorrect": num_incorrect,
            "num_hard_negatives": num_hard_negatives,
        }
        if num_rows < 1 or num_report_classes < 1 or max_text_characters < 1:
            raise ValueError(
                f"num_rows is {num_rows}, num_report_classes {num_report_classes}, max_text_characters "
                f"{max_text_characters}; expected at least 1."
            )
        for name, count in counts.items():
            if count < 0:
                raise ValueError(f"{name} is {count}; expected 0 or more.")
        for name, value, choices in (
            ("report", report, get_args(Report)),
            ("error_source", error_source, get_args(ErrorSource)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}.")
        self.num_rows = num_rows
        self.num_few_shot = num_few_shot
        self.num_buckets = {name: count for name, count in counts.items() if name != "num_few_shot"}
        self.report = report
        self.num_report_classes = num_report_classes
        # Predictions that nobody is shown are not made.
        self.error_source = error_source if any(self.num_buckets.values()) else "none"
        self.template = load_template(template)
        self.max_text_characters = max_text_characters

    def propose(self, context: RoundContext) -> Sequence[ProposedRow]:
        """One request, and one more where its answer cannot be read."""
        return context.ask(self.prompt(context), num_rows=self.num_rows)

    def prompt(self, context: RoundContext) -> str:
        """The prompt of a round."""
        drawn_once = random.Random(f"{context.seed}:few_shot")
        count = min(self.num_few_shot, len(context.seed_rows))
        few_shot = [{key: row[key] for key in ("text", "label")} for row in drawn_once.sample(context.seed_rows, count)]
        buckets = draw_buckets(context.errors_of, context.rng, shown=few_shot, **self.num_buckets)
        values = {
            "labels": context.labels,
            "num_rows": self.num_rows,
            "report": self._report(context),
            "few_shot": self._cut(few_shot),
            "correct": self._cut(buckets.correct),
            "incorrect": self._cut(buckets.incorrect),
            "hard_negatives": self._cut(buckets.hard_negatives),
        }
        return render(self.template, values)

    def _report(self, context: RoundContext) -> str:
        if self.report == "full":
            return full_report(context.report)
        if self.report == "compact":
            return compact_report(context.report, num_classes=self.num_report_classes)
        return ""

    def _cut(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        limit = self.max_text_characters
        return [
            {**row, "text": row["text"] if len(row["text"]) <= limit else f"{row['text'][:limit]}..."} for row in rows
        ]
