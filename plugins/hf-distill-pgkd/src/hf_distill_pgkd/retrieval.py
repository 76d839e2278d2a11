"""A teacher for experiments without a language model: it owns labelled texts and picks those that were asked for."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Container, Mapping, Sequence
from typing import Any

from rapidfuzz import fuzz, process

from hf_distill import Answer, TextAccount, TextRequest, TextTeacher, Usage, load_labelled_texts

_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_CLASS = re.compile(r"^(.*): precision [\d.]+, recall [\d.]+, f1 ([\d.]+), support (\d+)$", re.MULTILINE)
_AVERAGES = ("macro average", "weighted average")
_NEAREST = 10


class RetrievalTeacher(TextTeacher):
    """NOT a language model: answers PGKD's prompt with rows of a hidden pool of labelled texts.

    It reads the sections of the plugin's own prompt and does what they ask for, so that what a feedback is worth can be
    measured without a language model. Without any feedback it picks at random. With a report it picks classes with
    probability proportional to 1 - F1. With mistakes too, every other row is near one of them: drawn from the ten texts
    of the pool that are most similar (rapidfuzz's token_set_ratio) among those of the class that it is and of the class
    that it was taken for, most confident mistakes first. A text is given once in a run.

    Its "tokens" are words, and it is free of charge.

    Args:
        pool: the rows, ``{"text": ..., "label": ...}``; or what `load_labelled_texts` takes, whose split "pool" it is.

    Raises:
        ValueError: the pool is empty.
    """

    def __init__(self, pool: Sequence[Mapping[str, Any]] | Mapping[str, Any]) -> None:
        rows = load_labelled_texts(pool).pool if isinstance(pool, Mapping) else pool
        self.pool = [{"text": str(row["text"]), "label": str(row["label"])} for row in rows]
        if not self.pool:
            raise ValueError("The pool of the retrieval teacher is empty; give rows, or data with a pool_fraction.")
        self._by_label: dict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(self.pool):
            self._by_label[row["label"]].append(index)
        self.model = f"retrieval-{hashlib.sha256(json.dumps(self.pool).encode()).hexdigest()[:12]}"

    def ask(self, requests: Sequence[TextRequest], account: TextAccount) -> None:
        """Answer every request, in order."""
        for request in requests:
            account.begin(request)
            prompt = request.messages if isinstance(request.messages, str) else request.messages[-1]["content"]
            text = json.dumps(self.pick(prompt, random.Random(request.seed), self._given()))
            account.finish(request, Answer(text, usage=Usage(len(prompt.split()), len(text.split()), 0.0)))

    def pick(self, prompt: str, rng: random.Random, given: Container[str] = ()) -> list[dict[str, str]]:
        """The rows that a prompt asks for, without the texts in `given`.

        Raises:
            ValueError: the prompt was not made from the plugin's template.
        """
        found = re.search(r"^Generate (\d+) new training samples", prompt, re.MULTILINE)
        if found is None:
            raise ValueError(
                "The retrieval teacher reads no other prompt than that of pgkd; leave its template as it is."
            )
        parts = _SECTION.split(prompt)
        sections = dict(zip(parts[1::2], parts[2::2], strict=True))
        weights = self._weights(sections.get("Validation report", ""))
        mistakes = [
            json.loads(line)
            for title in ("What it gets wrong and is sure of", "What it gets wrong")
            for line in sections.get(title, "").splitlines()
            if line.startswith("{")
        ]
        left = {index for index, row in enumerate(self.pool) if row["text"] not in given}
        picked: list[int] = []
        for turn in range(min(int(found[1]), len(left))):
            index = None
            if mistakes and turn % 2 == 1:
                index = self._near(mistakes[turn // 2 % len(mistakes)], left, rng)
            picked.append(self._draw(weights, left, rng) if index is None else index)
            left.discard(picked[-1])
        return [self.pool[index] for index in picked]

    def _weights(self, report: str) -> dict[str, float]:
        """How much each class is asked for; empty without a report."""
        scores = {
            name: (1 - float(f1), int(support)) for name, f1, support in _CLASS.findall(report) if name not in _AVERAGES
        }
        seen = [weakness for weakness, support in scores.values() if support]
        # Of a class without validation texts a score of zero says nothing.
        usual = sum(seen) / max(len(seen), 1)
        return {name: weakness if support else usual for name, (weakness, support) in scores.items()}

    def _draw(self, weights: Mapping[str, float], left: set[int], rng: random.Random) -> int:
        """A row at random, of a class drawn by `weights`."""
        chosen = {label: weight for label, weight in weights.items() if weight > 0 and self._left(label, left)}
        if not chosen:
            return rng.choice(sorted(left))
        (label,) = rng.choices(list(chosen), list(chosen.values()))
        return rng.choice(self._left(label, left))

    def _near(self, mistake: Mapping[str, Any], left: set[int], rng: random.Random) -> int | None:
        """A row near a mistake, of the class that it is or of the one that it was taken for."""
        candidates = self._left(mistake["label"], left) + self._left(mistake["predicted"], left)
        texts = {index: self.pool[index]["text"] for index in candidates}
        nearest = process.extract(mistake["text"], texts, scorer=fuzz.token_set_ratio, limit=_NEAREST)
        return int(rng.choice(nearest)[2]) if nearest else None

    def _left(self, label: str, left: set[int]) -> list[int]:
        return [index for index in self._by_label.get(label, ()) if index in left]

    def _given(self) -> set[str]:
        """The texts of all earlier answers of the run; the ledger has them, also for a run that goes on."""
        if self.ledger is None:
            return set()
        answers = (entry["text"] for entry in self.ledger.entries() if entry["entry"] == "answer" and entry["text"])
        return {row["text"] for answer in answers for row in json.loads(answer)}
