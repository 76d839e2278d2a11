"""BM25: what a ranking by words alone is worth, and scores to learn from where there is no cross-encoder at hand.

Robertson and Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", with k1 = 1.2 and b = 0.75.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_K1, _B = 1.2, 0.75
_STEM = 5  # letters of a word that count: "return" is "returns"


class BM25:
    """Scores of documents, by the words that they share with a query.

    Args:
        documents: the collection, which decides how rare a word is and how long documents are.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        bags = [words(text) for text in documents]
        self._num_documents = len(bags)
        self._mean_length = sum(bag.total() for bag in bags) / max(len(bags), 1)
        self._frequency = Counter(word for bag in bags for word in bag)

    def score(self, query: str, document: str) -> float:
        """How well a document of the collection, or another one, answers a query; 0 or more."""
        bag = words(document)
        norm = _K1 * (1 - _B + _B * bag.total() / max(self._mean_length, 1e-9))
        return sum(
            self._rarity(word) * bag[word] * (_K1 + 1) / (bag[word] + norm) for word in words(query) if bag[word]
        )

    def _rarity(self, word: str) -> float:
        known = self._frequency[word]
        return math.log(1 + (self._num_documents - known + 0.5) / (known + 0.5))


def with_word_scores(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with a column ``teacher_scores``: how well each of their ``documents`` answers the query, by words."""
    bm25 = BM25({text for row in rows for text in row["documents"]})
    return [{**row, "teacher_scores": [bm25.score(row["query"], text) for text in row["documents"]]} for row in rows]


def words(text: str) -> Counter[str]:
    """How often each word's beginning stands in a text."""
    return Counter(word[:_STEM] for word in re.findall(r"\w+", text.lower()))
