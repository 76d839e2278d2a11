"""Rows of every form become nested batches, and bad ones an error that names the query."""

import pytest
import torch
from hf_distill_ranking.collator import RankingCollator, pairs_of

from hf_distill.testing import tiny_tokenizer

from .rankings import make_rows, other_tokenizer

TRIPLE = {"query": "w5", "positive": "w6 w7", "negative": "w8", "teacher_scores": [2.5, -1]}
SEVERAL = {"query": "w9 w9", "positive": "w6", "negatives": ["w7 w7 w7", "w8"], "teacher_scores": [1, 2, 3]}
LISTED = {"query": "w9", "documents": ["w5", "w6"], "labels": [0, 2]}


def test_triples_and_lists_go_into_one_batch():
    batch = RankingCollator(tiny_tokenizer())([TRIPLE, SEVERAL, LISTED])
    assert batch["document_mask"].tolist() == [[True, True, False], [True, True, True], [True, True, False]]
    assert batch["labels"].tolist() == [[1, 0, -100], [1, 0, 0], [0, 2, -100]]
    assert tiny_tokenizer().batch_decode(batch["documents"]["input_ids"], skip_special_tokens=True) == [
        *("w6 w7", "w8", "w6", "w7 w7 w7", "w8", "w5", "w6")
    ]
    assert len(batch["query"]["input_ids"]) == 3
    assert "teacher_scores" not in batch  # one row has none
    assert "pairs" not in batch


def test_each_part_is_padded_to_its_longest_text():
    batch = RankingCollator(tiny_tokenizer(), teacher_tokenizer=other_tokenizer())([TRIPLE, SEVERAL])
    assert [batch[name]["input_ids"].shape for name in ("query", "documents", "pairs")] == [(2, 2), (5, 3), (5, 5)]


def test_teachers_scores_keep_their_places():
    batch = RankingCollator(tiny_tokenizer())([TRIPLE, SEVERAL])
    assert batch["teacher_scores"].tolist() == [[2.5, -1, 0], [1, 2, 3]]
    assert batch["teacher_scores"].dtype == torch.float32


def test_the_teacher_reads_pairs_in_the_tokens_of_its_tokenizer():
    student, teacher = tiny_tokenizer(), tiny_tokenizer(word="v")
    batch = RankingCollator(student, teacher_tokenizer=teacher)([TRIPLE])
    assert set(batch["pairs"]["input_ids"].flatten().tolist()) <= {teacher.unk_token_id, teacher.pad_token_id}


def test_a_batch_of_rows_without_labels_has_none():
    batch = RankingCollator(tiny_tokenizer())([{"query": "w5", "documents": ["w6"]}])
    assert "labels" not in batch


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"text": "w5"}, "columns text; expected a text in query"),
        ({"query": "w5"}, "'w5' has no documents"),
        ({"query": "w5", "documents": []}, "'w5' has no documents"),
        ({"query": "w5", "positive": "w6"}, "'w5' has a positive, but neither"),
        ({**LISTED, "labels": [1]}, "'w9' has 2 documents and 1 labels"),
        ({**TRIPLE, "teacher_scores": [1.0]}, "'w5' has 2 documents and in 'teacher_scores'"),
        ({**TRIPLE, "teacher_scores": [1.0, float("nan")]}, "expected a finite score"),
    ],
)
def test_a_bad_row_is_refused(row, says):
    with pytest.raises(ValueError, match=says):
        RankingCollator(tiny_tokenizer())([row])


def test_a_capture_asks_about_the_pairs_of_the_training():
    rows, tokenizer = make_rows(3), other_tokenizer()
    pairs = pairs_of([*rows, rows[0]], tokenizer)
    batch = RankingCollator(tiny_tokenizer(), teacher_tokenizer=tokenizer)(rows)["pairs"]
    kept = [ids[mask.bool()].tolist() for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    assert list(pairs["input_ids"]) == kept
