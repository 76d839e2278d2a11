"""`data:`: every task gives what a trainer takes, and what is not understood is an error that lists what is."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from hf_distill.data.tasks import load_labelled_task, load_training_data
from hf_distill.data.training_data import TrainingData
from hf_distill.testing import tiny_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.jsonl"
    rows = [
        {"text": f"{'w5 w6 w7' if n % 2 else 'w8 w9 w10'} w{n + 5}", "label": "odd" if n % 2 else "even"}
        for n in range(40)
    ]
    path.write_text("\n".join(json.dumps({**row, "domain": row["label"]}) for row in rows))
    return str(path)


def test_packed_text_is_evaluated_by_domain_unless_it_says_otherwise(texts, tokenizer):
    spec = {"data_files": texts, "max_length": 8, "test_fraction": 0.3, "probe_fraction": 0}
    assert sorted(load_training_data(spec, tokenizer).evaluation) == ["even", "odd"]
    assert isinstance(load_training_data({**spec, "by_domain": False}, tokenizer).evaluation, Dataset)
    assert isinstance(load_training_data(spec, tokenizer, by_domain=False).evaluation, Dataset)
    named = load_training_data({"task": "causal_lm", **spec}, tokenizer)
    assert named.train.to_dict() == load_training_data(spec, tokenizer).train.to_dict()


def test_masked_text_has_labels_where_it_is_masked_alone(texts, tokenizer):
    data = load_training_data(
        {"task": "masked_lm", "data_files": texts, "max_length": 16, "mask_probability": 0.5}, tokenizer
    )
    batch = data.collator([data.train[0], data.train[1]])
    asked = batch["labels"] != -100
    assert asked.any()
    assert not asked.all()
    without = tiny_tokenizer()
    without.mask_token = None
    with pytest.raises(ValueError, match=r"mask token \(it has None\)"):
        load_training_data({"task": "masked_lm", "data_files": texts}, without)


def test_the_labelled_task_gives_rows_and_the_texts_they_are_made_of(texts, tokenizer):
    spec = {"task": "labelled", "data_files": texts, "max_length": 4, "pool_fraction": 0.25}
    data = load_training_data(spec, tokenizer)
    settings, raw = load_labelled_task(spec)
    assert settings.max_length == 4
    assert data.labels == raw.labels == ("even", "odd")
    assert len(data.train) == len(raw.train)
    assert max(map(len, data.train["input_ids"])) <= 4
    pool = load_training_data({**spec, "split": "pool", "unlabelled": True}, tokenizer)
    assert len(pool.train) == len(raw.pool)
    assert "labels" not in pool.train.column_names
    assert "labels" in pool.evaluation.column_names


def test_what_is_data_already_passes(tokenizer):
    data = TrainingData(train=[1])
    assert load_training_data(data) is data
    assert load_training_data([1]).train == [1]
    assert load_training_data(lambda given: [given], tokenizer).train == [tokenizer]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (None, r"there is no data; give data: \{task"),
        ({"task": "casual_lm"}, r"no task 'casual_lm' \(did you mean 'causal_lm'\?\); there are causal_lm, masked_lm"),
        ({"texts": "python", "max_lenght": 8}, "no option 'max_lenght'.*did you mean 'max_length'"),
        ({"task": "labelled", "data_files": "x.csv", "maks": 1}, "no option 'maks'"),
        ({"task": "labelled", "data_files": "{texts}", "split": "test"}, "data.split is 'test'; expected train, pool"),
        ({"task": "pairs", "data_files": "x.csv", "text_column": "a"}, "'pairs' has no option 'text_column'"),
        ({"task": "preset"}, "has no preset: 'package.module:function'"),
        ({"preset": "json:loads", "s": "{{}}"}, "has no option 's'|made dict|lacks|needs"),
    ],
)
def test_what_is_not_understood_is_an_error_that_lists_what_is(spec, message, texts, tokenizer):
    spec = spec and {key: value.format(texts=texts) if isinstance(value, str) else value for key, value in spec.items()}
    with pytest.raises(ValueError, match=message):
        load_training_data(spec, tokenizer)


def test_text_without_a_tokenizer_is_an_error(texts):
    with pytest.raises(ValueError, match="there is no tokenizer"):
        load_training_data({"data_files": texts})


def test_labelled_texts_are_the_only_task_of_their_loader():
    with pytest.raises(ValueError, match="is of the task 'causal_lm'; expected labelled texts"):
        load_labelled_task({"texts": "python"})
