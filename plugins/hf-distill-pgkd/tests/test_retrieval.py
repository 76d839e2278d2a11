from __future__ import annotations

import json
import random
import re
from collections import Counter

import pytest
from hf_distill_pgkd.retrieval import RetrievalTeacher

from hf_distill import Ledger, make_text_teacher

POOL = [
    {"text": f"{animal} {verb} {n}", "label": animal}
    for animal in ("cat", "dog")
    for verb in ("eats", "runs")
    for n in range(25)
]
BLIND = "## Task\nGenerate 20 new training samples for the classifier.\n"
REPORT = f"""{BLIND}
## Validation report
accuracy 0.5
cat: precision 1.00, recall 1.00, f1 1.00, support 5
dog: precision 0.10, recall 0.10, f1 0.10, support 5
macro average: precision 0.00, recall 0.00, f1 0.00, support 10
"""
MISTAKE = {"text": "cat runs far", "label": "cat", "predicted": "dog", "confidence": 0.9}
FULL = f"{REPORT}\n## What it gets wrong and is sure of\n{json.dumps(MISTAKE)}\n"


def pick(prompt, seed=0, given=()):
    return RetrievalTeacher(POOL).pick(prompt, random.Random(seed), given)


def test_feedback_changes_what_is_picked():
    blind = Counter(row["label"] for seed in range(20) for row in pick(BLIND, seed))
    assert 0.4 < blind["cat"] / blind.total() < 0.6
    assert {row["label"] for row in pick(REPORT)} == {"dog"}, "cats are perfect"
    full = pick(FULL)
    assert {row["label"] for row in full[::2]} == {"dog"}
    # Those of the mistake's class and of the one it was taken for, whatever the report says.
    assert all("runs" in row["text"] for row in full[1::2])
    assert "cat" in {row["label"] for row in full[1::2]}


def test_the_same_request_gets_the_same_answer_and_another_seed_another():
    assert pick(FULL) == pick(FULL)
    assert pick(FULL) != pick(FULL, seed=1)


def test_a_class_without_validation_texts_is_still_asked_for():
    unseen = re.sub(r"^dog: .*$", "dog: precision 0.00, recall 0.00, f1 0.00, support 0", REPORT, flags=re.MULTILINE)
    unseen = unseen.replace("f1 1.00", "f1 0.50")
    found = Counter(row["label"] for seed in range(20) for row in pick(unseen, seed))
    assert 0.4 < found["cat"] / found.total() < 0.6


def test_no_text_is_given_twice_over_several_runs(tmp_path):
    given = []
    for seed in range(6):
        with Ledger(tmp_path) as ledger:  # every request in a run of its own
            teacher = make_text_teacher(RetrievalTeacher(POOL), ledger=ledger)
            (answer,) = teacher.generate([FULL], seed=seed, purpose="round")
            given += [row["text"] for row in json.loads(answer.text)]
    assert len(given) == len(set(given)) == 100, "then the pool is empty"


def test_a_request_whose_answer_is_known_is_answered_from_the_ledger(tmp_path):
    with Ledger(tmp_path) as ledger:
        teacher = make_text_teacher(RetrievalTeacher(POOL), ledger=ledger)
        (first,), (second,) = (teacher.generate([BLIND], seed=3, purpose="round") for _ in range(2))
        assert second.text == first.text
        assert second.from_ledger
        assert ledger.summary().num_attempts == 1


def test_a_prompt_that_the_teacher_cannot_read_is_refused():
    with pytest.raises(ValueError, match="reads no other prompt"):
        pick("Please write 20 samples.")


def test_an_empty_pool_is_refused_and_different_pools_have_different_model_names():
    with pytest.raises(ValueError, match="pool of the retrieval teacher is empty"):
        RetrievalTeacher([])
    with pytest.raises(ValueError, match="pool of the retrieval teacher is empty"):
        RetrievalTeacher({"texts": "docstrings"})
    assert len(RetrievalTeacher({"texts": "docstrings", "pool_fraction": 0.1}).pool) > 100
    assert RetrievalTeacher(POOL).model != RetrievalTeacher(POOL[1:]).model, "the ledger tells pools apart"
