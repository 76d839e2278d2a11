"""Data without a download, from files, and scores of words."""

import json
import math

import pytest
from hf_distill_ranking.data import function_search, rankings
from hf_distill_ranking.functions import load_function_search
from hf_distill_ranking.lexical import BM25, with_word_scores

from hf_distill.testing import tiny_tokenizer

from .rankings import make_rows, other_tokenizer


def test_bm25_scores_follow_its_formula_and_ignore_case_and_endings():
    bm25 = BM25(["a b b", "a c", "d"])
    # Three documents of 2 words on average; "b" stands twice in one of them, of 3 words, "a" once in it and in another.
    rare, common = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)
    norm = 1.2 * (0.25 + 0.75 * 3 / 2)
    expected = rare * 2 * 2.2 / (2 + norm) + common * 2.2 / (1 + norm)
    assert bm25.score("A b?", "a b b") == pytest.approx(expected)
    assert bm25.score("z", "a b b") == 0
    assert bm25.score("return", "returns") == bm25.score("returning", "returns")


def test_word_scores_stand_beside_their_documents():
    (row,) = with_word_scores([{"query": "w5", "documents": ["w6", "w5", "w7 w5"]}])
    assert row["teacher_scores"][0] == 0
    assert row["teacher_scores"][1] > row["teacher_scores"][2] > 0


def test_queries_of_the_test_are_not_trained_on():
    splits = load_function_search(num_documents=6)
    asked = {split: {row["query"] for row in rows} for split, rows in splits.items()}
    assert len(asked["train"]) > len(asked["test"]) > 100
    assert not asked["train"] & asked["test"]
    for row in splits["train"]:
        assert len(row["documents"]) == len(set(row["documents"])) == len(row["labels"]) == 6
        assert row["labels"] == [1, 0, 0, 0, 0, 0]
    assert load_function_search(num_documents=6) == splits


def test_the_preset_has_scores_of_words_and_refuses_bad_options():
    data = function_search(tiny_tokenizer(), num_train=5, num_test=3, scores="words")
    assert (len(data.train), len(data.evaluation)) == (5, 3)
    batch = data.collator([data.train[0]])
    assert batch["teacher_scores"].shape == (1, 8)
    assert "pairs" not in batch
    with pytest.raises(ValueError, match="scores is 'bm25'"):
        function_search(tiny_tokenizer(), scores="bm25")
    with pytest.raises(ValueError, match="num_documents is 1"):
        function_search(tiny_tokenizer(), num_documents=1)


def test_files_are_read_as_they_are_written_and_bad_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = make_rows(4)
    for name, own in (("train", rows), ("test", rows[:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    other_tokenizer().save_pretrained(tmp_path / "teacher")
    paths = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "test")}
    data = rankings(tiny_tokenizer(), **paths, teacher_tokenizer=str(tmp_path / "teacher"), cutoff=3)
    assert list(data.train) == rows
    assert data.collator(list(data.evaluation))["pairs"]["input_ids"].shape[0] == 5
    with pytest.raises(ValueError, match=r"There is no file .*nowhere"):
        rankings(tiny_tokenizer(), train=str(tmp_path / "nowhere.jsonl"))
    (tmp_path / "bad.jsonl").write_text(json.dumps({"text": "w5"}) + "\n")
    with pytest.raises(ValueError, match="expected a text in query"):
        rankings(tiny_tokenizer(), train=str(tmp_path / "bad.jsonl"))
