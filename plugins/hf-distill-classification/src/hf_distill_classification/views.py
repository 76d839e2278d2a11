"""Batches of two views of the same examples, a weak and a strong one, as the loss `mdcs` reads them.

collator = TwoViews(DataCollatorWithPadding(tokenizer), strong=WordDropout(0.3, tokenizer))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

Augment = Callable[[dict[str, Any]], Mapping[str, Any]]


class TwoViews:
    """Collates every example twice: ``{"weak": {...}, "strong": {...}, "labels": ...}``.

    Args:
        collator: makes a batch, labels among it.
        strong: makes the strong view of one example, a new mapping. What it draws at random is another draw after a
            resume, as in every collator: loaders work ahead of the checkpoint.
        weak: the same of the weak view; by default the example as it is.
    """

    def __init__(
        self, collator: Callable[[list[Any]], Mapping[str, Any]], *, strong: Augment, weak: Augment = dict
    ) -> None:
        self.collator, self.strong, self.weak = collator, strong, weak

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        """The nested batch.

        Raises:
            ValueError: the examples have no label.
        """
        views = {}
        for name, augment in (("weak", self.weak), ("strong", self.strong)):
            views[name] = dict(self.collator([dict(augment(dict(feature))) for feature in features]))
            if "labels" not in views[name]:
                raise ValueError(f"Two views need labels, but the examples have only {', '.join(features[0])}.")
        labels = [view.pop("labels") for view in views.values()]
        return {**views, "labels": labels[0]}


class WordDropout:
    """A strong view of a text: some of its tokens are masked.

    Args:
        rate: share of the tokens.
        tokenizer: has a mask token; special tokens are left alone.

    Raises:
        ValueError: a rate out of range, or a tokenizer without a mask token.
    """

    def __init__(self, rate: float, tokenizer: PreTrainedTokenizerBase) -> None:
        if not 0 < rate < 1 or tokenizer.mask_token_id is None:
            raise ValueError(
                f"rate is {rate} and the tokenizer's mask token {tokenizer.mask_token!r}; expected a share between 0 "
                "and 1, and a tokenizer that has one."
            )
        self.rate, self.mask, self.special = rate, tokenizer.mask_token_id, set(tokenizer.all_special_ids)

    def __call__(self, feature: dict[str, Any]) -> dict[str, Any]:
        """The example with masks in its ``input_ids``."""
        ids = torch.as_tensor(feature["input_ids"]).tolist()
        dropped = (torch.rand(len(ids)) < self.rate).tolist()
        masked = [self.mask if drop and id not in self.special else id for id, drop in zip(ids, dropped, strict=True)]
        return {**feature, "input_ids": masked}
