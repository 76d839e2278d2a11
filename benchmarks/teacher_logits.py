"""Log-probabilities of real models on text that they were not trained on, for benchmarks of what is kept of them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

SHARED = Path(os.environ.get("HF_DISTILL_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
BIG = 151_936  # words of the vocabulary that is made
LENGTH = 128  # tokens of a sequence


@dataclass
class Source:
    """A teacher's log-probabilities.

    Attributes:
        name: of the model.
        log_probs: ``[n, V]``, sequences of `LENGTH` behind each other.
        tokens: the token that follows each position, ``[n]``.
        frequency: how often each id is in other text, ``[V]``.
    """

    name: str
    log_probs: Tensor
    tokens: Tensor
    frequency: NDArray[np.float64]


def sources(sequences: int, split_sequences: int) -> Iterator[Source]:
    """The models, one after the other: so many sequences of each domain, and of the split vocabulary."""
    domains = sorted((SHARED / "lm_domains").glob("*.jsonl.gz"))
    texts = [[json.loads(line) for line in gzip.open(file, "rt", encoding="utf-8")] for file in domains]
    test, train = (
        ["\n".join(r["text"] for r in t if r["split"] == s)[:60_000] for t in texts] for s in ("test", "train")
    )
    main_source = from_model("teacher_lm", SHARED / "teacher_lm", test, train, sequences)
    yield main_source
    yield split(main_source, BIG, split_sequences)
    with gzip.open(SHARED / "tinystories_sample" / "tinystories.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read(120_000)
    halves = [text[:60_000]], [text[60_000:]]
    yield from_model("stories260k", SHARED / "stories260k" / "hf", *halves, 4 * sequences)


@torch.no_grad()
def from_model(name: str, folder: Path, texts: list[str], other: list[str], sequences: int) -> Source:
    """What a model says of the first `sequences` of each text."""
    transformers.utils.logging.set_verbosity_error()  # whole texts are longer than the model's context
    transformers.utils.logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    size = sequences * LENGTH + 1
    ids = [torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"][:size]) for text in texts]
    pieces = [part for text in ids for part in text[:-1].split(LENGTH) if len(part) == LENGTH]
    following = [part for text in ids for part in text[1:].split(LENGTH) if len(part) == LENGTH]
    logits = torch.cat([model(part[None]).logits[0] for part in pieces])
    vocab_size = model.config.vocab_size
    counted = [id for text in other for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    return Source(
        name,
        logits.log_softmax(-1),
        torch.cat(following),
        np.bincount(counted, minlength=vocab_size).astype(np.float64),
    )


def split(source: Source, vocab_size: int, sequences: int) -> Source:
    """The same distributions over a bigger vocabulary."""
    generator = np.random.default_rng(0)
    old = source.log_probs.shape[1]
    many = np.full(old, vocab_size // old) + (np.arange(old) < vocab_size % old)
    parents = np.repeat(np.arange(old), many)
    share = np.concatenate([(1 / np.arange(1, n + 1)) / (1 / np.arange(1, n + 1)).sum() for n in many])
    numbers = generator.permutation(vocab_size)
    parents, share = parents[numbers], share[numbers]
    # Evenly from all domains.
    chosen = np.linspace(0, len(source.tokens) // LENGTH - 1, sequences).astype(int)
    positions = torch.from_numpy((chosen[:, None] * LENGTH + np.arange(LENGTH)).ravel())
    log_probs = source.log_probs[positions][:, torch.from_numpy(parents)] + torch.from_numpy(np.log(share)).float()
    first = np.zeros(old, dtype=np.int64)
    first[parents[::-1]] = np.arange(vocab_size)[::-1]
    tokens = torch.from_numpy(first)[source.tokens[positions]]
    return Source(f"{source.name} split", log_probs, tokens, (source.frequency[parents] + 0.5) * share)
