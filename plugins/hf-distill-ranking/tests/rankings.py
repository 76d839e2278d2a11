"""Queries and documents of words that the tiny tokenizers know, models for them, and trainings of these."""

from __future__ import annotations

import random
from typing import Any

import torch
from datasets import Dataset
from hf_distill_ranking.collator import RankingCollator
from hf_distill_ranking.measures import ranking_metrics
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import tiny_model, tiny_tokenizer

WORDS = [f"w{index}" for index in range(5, 64)]


def make_rows(num_queries: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Queries with lists of two to four documents; the relevant one has the query's words, and a high score."""
    rng = random.Random(seed)
    rows = []
    for index in range(num_queries):
        query = rng.choices(WORDS, k=rng.randint(2, 4))
        size = 2 + index % 3
        documents = [rng.choices(WORDS, k=rng.randint(3, 9)) for _ in range(size)]
        documents[index % size] += query
        labels = [int(place == index % size) for place in range(size)]
        scores = [round(rng.gauss(10 * label, 2), 3) for label in labels]
        texts = [" ".join(one) for one in documents]
        rows.append({"query": " ".join(query), "documents": texts, "labels": labels, "teacher_scores": scores})
    return rows


def other_tokenizer() -> PreTrainedTokenizerFast:
    """The teacher's: the same words, other ids."""
    special = ["<pad>", "<unk>", "<sep>"]
    vocabulary = {token: index for index, token in enumerate([*special, *reversed(WORDS)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", sep_token="<sep>")


def cross_encoder() -> Any:
    """The teacher."""
    return tiny_model("bert_classifier", seed=2, num_labels=1, num_hidden_layers=3)


def make_trainer(folder: Any, losses: list[Any], *, num_queries: int = 12, **options: Any) -> DistillationTrainer:
    """A trainer of a tiny bi-encoder.

    Args:
        folder: where it writes.
        losses: of the ranking plugin.
        num_queries: to train on; six others are evaluated.
        options: of the trainer, by the names of its arguments, and of `DistillationArguments`.
    """
    own = {name: options.pop(name) for name in ("teacher", "data_collator") if name in options}
    pairs = {"teacher_tokenizer": other_tokenizer()} if "teacher" in own else {}
    defaults = {
        **{"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_steps": 1},
        **{"per_device_train_batch_size": 4, "learning_rate": 3e-3, "lr_scheduler_type": "constant", "max_steps": 4},
        **{"train_sampling_strategy": "sequential", "max_grad_norm": 0.0, "plugins": ["ranking"]},
    }
    torch.manual_seed(0)
    return DistillationTrainer(
        tiny_model("bert", seed=1),
        DistillationArguments(str(folder), **{**defaults, **options}),
        losses=losses,
        train_dataset=Dataset.from_list(make_rows(num_queries)),
        eval_dataset=Dataset.from_list(make_rows(6, seed=1)),
        processing_class=tiny_tokenizer(),
        compute_metrics=ranking_metrics(),
        **{"data_collator": RankingCollator(tiny_tokenizer(), **pairs), **own},
    )
