"""MRR and nDCG against scikit-learn and by hand; what makes them lie."""

import numpy as np
import pytest
from hf_distill_ranking.measures import rank_quality, ranking_metrics
from sklearn.metrics import ndcg_score
from transformers import EvalPrediction


def test_ndcg_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores, grades = rng.normal(size=(20, 15)), rng.integers(0, 4, (20, 15))
    expected = np.mean([ndcg_score([own], [score], k=5) for own, score in zip(grades, scores, strict=True)])
    assert rank_quality(scores, grades, cutoff=5)["ndcg@5"] == pytest.approx(expected, rel=1e-5)


def test_reciprocal_ranks_are_those_of_the_first_relevant_document():
    scores = [[0.1, 0.9, 0.5], [3.0, 2.0], [1.0, 2.0, 3.0, 4.0]]
    grades = [[0, 0, 1], [1, 0], [1, 0, 0, 0]]
    found = rank_quality(scores, grades, cutoff=3)
    assert found["mrr@3"] == pytest.approx((1 / 2 + 1 + 0) / 3)  # the last one is fourth, behind the cutoff


def test_documents_with_scores_below_zero_are_ranked():
    assert rank_quality([[-5.0, -1.0]], [[0, 1]])["mrr@10"] == 1


def test_a_student_that_tells_nothing_apart_gets_the_worst_rank():
    found = rank_quality([[0.5, 0.5, 0.5, 0.5]], [[1, 0, 0, 0]])
    assert found == {"mrr@10": 0.25, "ndcg@10": pytest.approx(1 / np.log2(5))}


def test_padding_of_shorter_lists_is_not_ranked():
    prediction = EvalPrediction(
        predictions=np.array([[-300.0, -200.0, -100.0], [2.0, 1.0, 3.0]]),
        label_ids=np.array([[0, 1, -100], [1, 0, 0]]),
    )
    assert ranking_metrics()(prediction)["mrr@10"] == pytest.approx((1 + 1 / 2) / 2)


def test_queries_without_a_relevant_document_are_not_measured():
    assert rank_quality([[1.0, 2.0], [1.0, 2.0]], [[0, 0], [0, 1]])["mrr@10"] == 1
    with pytest.raises(ValueError, match="No query has a relevant document"):
        rank_quality([[1.0, 2.0]], [[0, 0]])


def test_a_cutoff_of_zero_is_refused():
    with pytest.raises(ValueError, match="cutoff is 0"):
        ranking_metrics(0)
