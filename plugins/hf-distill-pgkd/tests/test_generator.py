from __future__ import annotations

import json
import random
from collections.abc import Mapping

import pytest
from hf_distill_pgkd.buckets import draw_buckets
from hf_distill_pgkd.generator import PGKDGenerator
from hf_distill_pgkd.prompts import VARIABLES

from hf_distill import Answer, ClassReport, Ledger, Predictions, RoundContext

LABELS = tuple(f"class {number}" for number in range(40))
ROWS = [{"text": f"text number {number}", "label": LABELS[number % 40]} for number in range(200)]
PAPER = {"num_few_shot": 16, "num_correct": 16, "num_incorrect": 16, "num_hard_negatives": 16}


def predictions(num_wrong):
    """Every row right but for the first `num_wrong`, of rising confidence."""
    labels = ["class 39" if n < num_wrong and n % 40 != 39 else row["label"] for n, row in enumerate(ROWS)]
    return Predictions(ROWS, labels, [0.3 + n / 1000 for n in range(len(ROWS))])


def report(f1=None):
    scores = {
        label: {"precision": 0.5, "recall": 0.25, "f1": (f1 or {}).get(label, 0.9), "support": 3} for label in LABELS
    }
    mean = {"precision": 0.11, "recall": 0.22, "f1": 0.33, "support": 120}
    return ClassReport.from_json({"loss": 1, "accuracy": 0.678, "classes": scores, "macro": mean, "weighted": mean})


def context(tmp_path, *, errors=None, index=1, seed=0, rows=ROWS, teacher=None, **changes):
    return RoundContext(
        index=index,
        labels=LABELS,
        seed_rows=rows,
        rows=rows,
        report=changes.pop("report", report()),
        errors_of=errors or predictions(60),
        predict=lambda texts: Predictions(),
        student_folder="",
        seed=seed,
        rng=random.Random(f"{seed}:{index}"),
        teacher=teacher,
        ledger=changes.pop("ledger", None),
    )


def sections(prompt):
    parts = f"\n{prompt}".split("\n## ")
    return {part.partition("\n")[0]: part.partition("\n")[2] for part in parts[1:]}


def shown(prompt, title):
    return [json.loads(line) for line in sections(prompt).get(title, "").splitlines() if line.startswith("{")]


def test_the_defaults_are_those_of_the_paper():
    generator = PGKDGenerator()
    assert generator.num_rows == 32
    assert {"num_few_shot": generator.num_few_shot, **generator.num_buckets} == PAPER
    assert (generator.error_source, generator.report) == ("train", "full")


def test_the_prompt_has_its_parts_in_order(tmp_path):
    prompt = PGKDGenerator().prompt(context(tmp_path))
    assert list(sections(prompt)) == [
        "Classes",
        "Examples",
        "Task",
        "Validation report",
        "What it gets right",
        "What it gets wrong",
        "What it gets wrong and is sure of",
    ]
    assert prompt.startswith("You are the teacher of a small text classifier")
    assert "Generate 32 new training samples" in prompt
    assert "7: class 7\n" in prompt
    counts = [len(shown(prompt, title)) for title in sections(prompt)]
    assert counts == [0, 16, 0, 0, 16, 16, 16]
    assert "{{" not in prompt
    assert "{%" not in prompt


def test_the_report_names_every_class(tmp_path):
    prompt = PGKDGenerator().prompt(context(tmp_path, report=report({"class 3": 0.1, "class 8": 0.2})))
    text = sections(prompt)["Validation report"]
    assert all(f"{label}: precision 0.50, recall 0.25, f1 " in text for label in LABELS)
    assert "accuracy 0.678" in text
    assert "macro average: precision 0.11, recall 0.22, f1 0.33, support 120" in text


def test_a_compact_report_is_short_and_keeps_the_worst_classes(tmp_path):
    shaped = report({"class 3": 0.1, "class 8": 0.2})
    prompt = PGKDGenerator(report="compact", num_report_classes=2).prompt(context(tmp_path, report=shaped))
    lines = sections(prompt)["Validation report"].splitlines()
    assert [line.partition(":")[0] for line in lines if "precision" in line] == [
        "class 3",
        "class 8",
        "macro average",
        "weighted average",
    ]
    assert "(the 2 worst classes; 38 others are left out)" in lines


def test_few_shot_examples_stay_the_same_from_round_to_round(tmp_path):
    generator = PGKDGenerator()
    first = shown(generator.prompt(context(tmp_path)), "Examples")
    rows = [*ROWS, {"text": "generated later", "label": "class 0"}]
    later = context(tmp_path, index=2)
    later.rows = rows
    assert shown(generator.prompt(later), "Examples") == first
    assert shown(PGKDGenerator().prompt(context(tmp_path, index=7)), "Examples") == first, "a resumed run"
    assert shown(generator.prompt(context(tmp_path, seed=1)), "Examples") != first


def test_the_same_round_gives_the_same_prompt_and_another_round_another(tmp_path):
    assert PGKDGenerator().prompt(context(tmp_path)) == PGKDGenerator().prompt(context(tmp_path))
    assert PGKDGenerator().prompt(context(tmp_path)) != PGKDGenerator().prompt(context(tmp_path, index=2))


def test_hard_negatives_are_the_most_confident_errors_and_no_text_is_shown_twice():
    found = predictions(60)
    buckets = draw_buckets(found, random.Random(0), num_correct=16, num_incorrect=16, num_hard_negatives=16)
    shown = zip(ROWS, found.labels, found.confidences, strict=True)
    errors = [(confidence, row["text"]) for row, label, confidence in shown if label != row["label"]]
    assert [row["text"] for row in buckets.hard_negatives] == [text for _, text in sorted(errors, reverse=True)[:16]]
    assert buckets.hard_negatives[0] == {
        "text": "text number 59",
        "label": "class 19",
        "predicted": "class 39",
        "confidence": 0.359,
    }
    texts = [row["text"] for row in (*buckets.hard_negatives, *buckets.incorrect, *buckets.correct)]
    assert len(texts) == len(set(texts)) == 48
    assert all("predicted" in row and "confidence" not in row for row in buckets.incorrect)
    assert all(set(row) == {"text", "label"} for row in buckets.correct)


def test_copies_of_a_text_and_shown_examples_are_left_out_of_the_buckets():
    doubled = Predictions(ROWS[:3] * 9, ["class 39"] * 27, [0.5] * 27)
    buckets = draw_buckets(doubled, random.Random(0), num_correct=16, num_incorrect=2, num_hard_negatives=16)
    assert (len(buckets.hard_negatives), buckets.incorrect, buckets.correct) == (3, [], [])
    right = Predictions(ROWS[:5], [row["label"] for row in ROWS[:5]], [0.9] * 5)
    options = {"num_correct": 16, "num_incorrect": 16, "num_hard_negatives": 16, "shown": ROWS[:2]}
    assert len(draw_buckets(right, random.Random(0), **options).correct) == 3


def test_empty_buckets_leave_no_headings(tmp_path):
    prompt = PGKDGenerator().prompt(context(tmp_path, errors=predictions(0)))
    assert "What it gets right" in prompt
    assert "What it gets wrong" not in prompt
    blind = PGKDGenerator(num_correct=0, num_incorrect=0, num_hard_negatives=0, report="none")
    assert list(sections(blind.prompt(context(tmp_path)))) == ["Classes", "Examples", "Task"]
    assert blind.error_source == "none", "nobody looks at the predictions, so they cost nothing"


def test_long_texts_are_cut_in_the_prompt(tmp_path):
    rows = [{"text": "x" * 5000, "label": "class 0"}]
    prompt = PGKDGenerator(max_text_characters=100).prompt(context(tmp_path, rows=rows, errors=Predictions()))
    assert shown(prompt, "Examples") == [{"text": f"{'x' * 100}...", "label": "class 0"}]


def test_a_template_of_the_user_is_used_and_a_broken_one_is_refused_before_the_run(tmp_path):
    path = tmp_path / "mine.jinja"
    path.write_text(
        "Schreib {{ num_rows }} Texte zu {{ labels | join(', ') }}.{% for r in correct[40:] %}{{ r }}{% endfor %}"
    )
    prompt = PGKDGenerator(template=str(path), num_rows=3).prompt(context(tmp_path, errors=predictions(0)))
    assert prompt == f"Schreib 3 Texte zu {', '.join(LABELS)}."
    for text, problem in (("{{ rows }}", "'rows' is undefined"), ("{% if %}", "no template of a prompt")):
        path.write_text(text)
        with pytest.raises(ValueError, match=problem) as raised:
            PGKDGenerator(template=str(path))
        assert all(name in str(raised.value) for name in VARIABLES)
    with pytest.raises(ValueError, match="cannot be read"):
        PGKDGenerator(template=str(tmp_path / "absent"))


def test_a_template_that_reaches_into_python_is_refused(tmp_path):
    path = tmp_path / "bad.jinja"
    path.write_text("{{ labels.__class__.__mro__ }}")
    with pytest.raises(ValueError, match="unsafe"):
        PGKDGenerator(template=str(path))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("num_rows", 0),
        ("num_correct", -1),
        ("num_hard_negatives", -1),
        ("report", "short"),
        ("error_source", "oof"),
        ("error_source", "none"),
        ("num_report_classes", 0),
        ("max_text_characters", 0),
    ],
)
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=f"{option} is {value!r}|{option} {value}"):
        PGKDGenerator(**{option: value})


def test_a_round_makes_one_request_and_its_rows_know_where_they_are_from(tmp_path):
    asked = []

    class Teacher:
        def generate(self, prompts, *, seed, purpose):
            asked.append((prompts, seed, purpose))
            name = ledger.request(model="m", messages=prompts[0], seed=seed, purpose=purpose)
            answer = Answer('[{"text": "a b", "label": 3}, {"text": "c d", "label": "class 1"}]', request_id=name)
            ledger.answer(name, answer)
            return [answer]

    with Ledger(tmp_path) as ledger:
        rows = PGKDGenerator().propose(context(tmp_path, teacher=Teacher(), ledger=ledger, index=4))
        ((prompts, seed, purpose),) = asked
        assert (len(prompts), seed, purpose) == (1, 4, "round 4")
        assert [(row.index, row.fields["label"]) for row in rows] == [(0, 3), (1, "class 1")]
        assert {row.request_id for row in rows} == {ledger.request_id("m", prompts[0], 4, {})}
        assert all(isinstance(row.fields, Mapping) for row in rows)
        assert ledger.summary().parses == {"parsed": 1}
