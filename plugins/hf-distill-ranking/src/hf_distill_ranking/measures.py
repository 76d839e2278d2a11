"""How good a ranking is: mean reciprocal rank and normalised discounted cumulative gain, by torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from transformers import EvalPrediction

from hf_distill import IGNORE_INDEX


def ranking_metrics(cutoff: int = 10) -> Callable[[EvalPrediction], dict[str, float]]:
    """A ``compute_metrics`` for `Trainer`: ``mrr@10`` and ``ndcg@10`` of the student's scores.

    Args:
        cutoff: how many of the first documents count.

    Raises:
        ValueError: the cutoff is below 1.
    """
    if cutoff < 1:
        raise ValueError(f"cutoff is {cutoff}; expected at least 1.")

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        scores, labels = np.asarray(prediction.predictions), np.asarray(prediction.label_ids)
        there = labels != IGNORE_INDEX
        lists = [
            (query_scores[mask], relevance[mask])
            for query_scores, relevance, mask in zip(scores, labels, there, strict=True)
        ]
        return rank_quality(
            [query_scores for query_scores, _ in lists], [relevance for _, relevance in lists], cutoff=cutoff
        )

    return compute_metrics


def rank_quality(scores: Sequence[ArrayLike], relevance: Sequence[ArrayLike], *, cutoff: int = 10) -> dict[str, float]:
    """``mrr@k`` and ``ndcg@k`` (gain: the relevance itself), means over the queries that have a relevant document.

    Documents of equal score stand in the worst order, so that a model that tells nothing apart does not seem good where
    the relevant document is listed first.

    Args:
        scores: of each query's documents; higher is better.
        relevance: of the same documents, whole numbers.
        cutoff: k.

    Raises:
        ValueError: no query has a relevant document.
    """
    from torchmetrics.functional.retrieval import retrieval_normalized_dcg, retrieval_reciprocal_rank

    ranks, gains = [], []
    for query_scores, grades in zip(scores, relevance, strict=True):
        listed = np.asarray(grades).astype(np.int64)
        if not (listed > 0).any():
            continue
        target = torch.from_numpy(listed[np.lexsort((listed, -np.asarray(query_scores, dtype=np.float64)))])
        # torchmetrics takes scores of 0 and below for documents that were not retrieved.
        places = torch.arange(len(target), 0, -1, dtype=torch.float32)
        ranks.append(retrieval_reciprocal_rank(places, target > 0, top_k=cutoff))
        gains.append(retrieval_normalized_dcg(places, target, top_k=cutoff))
    if not ranks:
        raise ValueError("No query has a relevant document (a label above 0), so that there is nothing to measure.")
    return {f"mrr@{cutoff}": float(torch.stack(ranks).mean()), f"ndcg@{cutoff}": float(torch.stack(gains).mean())}
