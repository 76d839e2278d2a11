"""Perplexity from sums of cross-entropy, so that batches of any size add up to the corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import datasets
import evaluate

_DESCRIPTION = "Perplexity of a corpus from the summed cross-entropy of its parts."
_INPUTS = """
Args:
    predictions: summed cross-entropy (negative log-probability) of the tokens of each part, in nats.
    references: number of predicted tokens of each part.
Returns:
    cross_entropy: nats per token.
    perplexity: its exponential.
"""


class Perplexity(evaluate.Metric):  # type: ignore[misc]
    """``exp(sum of cross-entropies / number of tokens)``: a mean over tokens, never a mean of means of batches.

    Perplexity().compute(predictions=[cross_entropy_sum], references=[num_tokens])
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, *, predictions: Sequence[float], references: Sequence[int]) -> dict[str, float]:
        num_tokens = sum(references)
        if num_tokens <= 0:
            raise ValueError("There are no predicted tokens; perplexity is not defined.")
        cross_entropy = math.fsum(predictions) / num_tokens
        try:
            perplexity = math.exp(cross_entropy)
        except OverflowError:
            perplexity = math.inf
        return {"cross_entropy": cross_entropy, "perplexity": perplexity}
