"""Pairs of texts: classes and values, cut so that no first text is on both sides, and a model that learns from them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import EvalPrediction, TrainingArguments

from hf_distill import DistillationTrainer
from hf_distill.data.pairs import squared_error
from hf_distill.data.tasks import load_training_data
from hf_distill.testing import tiny_model, tiny_tokenizer


@pytest.fixture
def table(tmp_path):
    def write(labels, **names):
        first, second, label = (names.get(name, name) for name in ("first", "second", "label"))
        rows = [
            {first: f"text {number // 2}", second: f"other {number}", label: labels[number % len(labels)]}
            for number in range(40)
        ]
        path = tmp_path / "pairs.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
        return {"task": "pairs", "data_files": str(path)}

    return write


def test_both_texts_are_read_and_classes_are_numbered_by_name(table):
    tokenizer = tiny_tokenizer()
    data = load_training_data(table(["no", "yes"]), tokenizer)
    assert data.labels == ("no", "yes")
    assert set(data.train["labels"]) == {0, 1}
    both = tokenizer("text 0", "other 0")["input_ids"]
    assert both in [*data.train["input_ids"], *data.evaluation["input_ids"]]
    assert len(both) > len(tokenizer("text 0")["input_ids"])


def test_pairs_that_share_a_first_text_are_on_one_side(table):
    data = load_training_data({**table(["no", "yes"]), "validation_fraction": 0.3}, tiny_tokenizer())
    assert len(data.train) == 28
    assert len(data.evaluation) == 12


def test_fractions_are_values_for_a_head_with_one_output(table, tmp_path):
    data = load_training_data({**table([0.0, 0.25, 0.75], first="a"), "first_column": "a"}, tiny_tokenizer())
    assert data.labels is None
    assert set(data.train["labels"]) == {0.0, 0.25, 0.75}
    arguments = TrainingArguments(str(tmp_path), max_steps=1, report_to="none", use_cpu=True, save_strategy="no")
    trainer = DistillationTrainer(
        tiny_model("bert_classifier", num_labels=1),
        arguments,
        teacher=tiny_model("bert_classifier", num_labels=1, seed=2),
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        data_collator=data.collator,
        compute_metrics=data.compute_metrics,
    )
    trainer.train()
    found = trainer.evaluate()
    assert found["eval_mean_squared_error"] > 0


def test_the_squared_error_is_the_mean_over_the_pairs():
    prediction = EvalPrediction(np.array([[1.0], [3.0]]), np.array([0.0, 1.0]))
    assert squared_error(prediction) == {"mean_squared_error": 2.5}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"first_column": "premise"}, "has no column 'premise'; it has first, second, label"),
        ({"data_files": None}, "needs path and/or data_files"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0; expected a share"),
        ({"validation_split": "dev"}, "There is no split 'dev'; the data has train"),
    ],
)
def test_what_pairs_lack_is_said(change, message, table):
    with pytest.raises(ValueError, match=message):
        load_training_data({**table(["no", "yes"]), **change}, tiny_tokenizer())
