"""What language models write: continuations of the texts' beginnings, and how good they are.

student = speaking_student(seed)  # a copy of a student after 200 steps of cross-entropy
measure_samples(student, seed=seed)["teacher_nll"]
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, default_data_collator

from .language_models import LENGTH, new_student, teacher_model, text, tokenizer
from .training import train

PROMPT = 16


def speaking_student(seed: int) -> LlamaForCausalLM:
    """A student that has learnt from the text alone, to begin with."""
    return copy.deepcopy(_speaking_student(seed))


@functools.cache
def _speaking_student(seed: int) -> LlamaForCausalLM:
    student = new_student(seed=seed)
    budget = {"steps": 200, "batch_size": 8, "learning_rate": 1e-2}
    train(student, ["task"], text()["train"], seed=seed, data_collator=default_data_collator, **budget)
    return student


def prompts(split: str, number: int) -> Tensor:
    """The first tokens of some rows, ``[number, PROMPT]``."""
    rows = [row for row in text()[split]["input_ids"] if len(row) == LENGTH][:number]
    return torch.tensor(rows)[:, :PROMPT]


@torch.no_grad()
def write(model: Any, beginnings: Tensor, *, seed: int, length: int = LENGTH) -> Tensor:
    """The beginnings and what `model` samples after them, ``[B, length]``; padding after the end of a text."""
    options = {"do_sample": True, "temperature": 1.0, "top_k": 0, "pad_token_id": tokenizer().pad_token_id or 0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = length - beginnings.shape[1]
        mask = torch.ones_like(beginnings)
        written: Tensor = model.generate(beginnings, attention_mask=mask, max_new_tokens=new, **options)
    return torch.nn.functional.pad(written, (0, length - written.shape[1]), value=options["pad_token_id"])


def written_mask(texts: Tensor) -> Tensor:
    """What was written after the beginnings: up to and with the end of the text."""
    is_end = (texts == tokenizer().eos_token_id).int()
    is_end[:, :PROMPT] = 0
    mask = is_end.cumsum(1) - is_end == 0
    mask[:, :PROMPT] = False
    return mask


@torch.no_grad()
def measure_samples(student: Any, *, seed: int, number: int = 128) -> dict[str, float]:
    """Of continuations of held-out beginnings.

    Returns:
        teacher_nll: -log of the teacher's probability, in nats a token; repeats: share of runs of four tokens that
        were there before in the same text.
    """
    texts = write(student, prompts("test", number), seed=seed)
    mask = written_mask(texts)
    log_probs = teacher_model()(texts).logits[:, :-1].log_softmax(-1).gather(-1, texts[:, 1:, None])[..., 0]
    nll = -log_probs[mask[:, 1:]].mean()
    kept = [ids[own].tolist() for ids, own in zip(texts, mask, strict=True)]
    runs = [[tuple(ids[i : i + 4]) for i in range(len(ids) - 3)] for ids in kept]
    repeated = sum(len(own) - len(set(own)) for own in runs) / sum(map(len, runs))
    return {"teacher_nll": float(nll), "repeats": repeated}
