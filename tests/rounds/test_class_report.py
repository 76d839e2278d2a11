from __future__ import annotations

import json
import random

import pytest
from sklearn.metrics import classification_report

from hf_distill.rounds.class_report import ClassReport, class_report

LABELS = ["b", "a", "never predicted", "never there", "neither"]


def example():
    generator = random.Random(0)
    true = [generator.choice(["a", "b", "never predicted"]) for _ in range(60)]
    predicted = [t if generator.random() < 0.5 else generator.choice(["a", "b", "never there"]) for t in true]
    return true, [p if p != "never predicted" else "a" for p in predicted]


def test_scores_are_those_of_scikit_learn():
    true, predicted = example()
    expected = classification_report(true, predicted, labels=LABELS, output_dict=True, zero_division=0)
    found = class_report(true, predicted, LABELS, loss=1.5)
    for name, scores in {**found.classes, "macro avg": found.macro, "weighted avg": found.weighted}.items():
        there = {key.removesuffix("-score"): value for key, value in expected[name].items()}
        assert vars(scores) == pytest.approx(there), name
    assert found.accuracy == pytest.approx(sum(t == p for t, p in zip(true, predicted, strict=True)) / len(true))
    assert list(found.classes) == LABELS


def test_a_report_does_not_change_on_its_way_through_json():
    report = class_report(*example(), LABELS, loss=0.1 + 0.2)
    assert ClassReport.from_json(json.loads(json.dumps(report.to_json()))) == report


def test_classes_without_examples_do_not_count_as_the_worst():
    report = class_report(["a", "a", "b", "b", "b"], ["a", "b", "a", "a", "a"], LABELS, loss=1.0)
    assert report.worst(3) == ["b", "a"]
    assert report.worst(1) == ["b"]


def test_no_examples_are_an_error():
    with pytest.raises(ValueError, match="no examples"):
        class_report([], [], LABELS, loss=0.0)
