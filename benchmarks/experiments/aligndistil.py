"""AlignDistil against DPO, where what is preferred is a hidden number for each word.

The policy is stories260k. It continues beginnings of stories twice; of the two, the one with more reward is preferred.
The reward of a text is the mean of its words' numbers, drawn once a seed. DPO and its reverse are trained on the pairs.
AlignDistil starts where DPO did, and learns on the preferred texts.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import default_data_collator

from hf_distill import IGNORE_INDEX

from .frame import Experiment
from .language_models import teacher_model, tokenizer
from .samples import PROMPT, prompts, write
from .training import train

BETA = 0.1
LENGTH = 48
BUDGET = {"steps": 60, "batch_size": 16, "learning_rate": 1e-3}


@functools.cache
def word_rewards(seed: int) -> Tensor:
    """A number for each word."""
    return torch.randn(teacher_model().config.vocab_size, generator=torch.Generator().manual_seed(seed))


def reward(texts: Tensor, seed: int) -> Tensor:
    """Mean over what was written, ``[B]``."""
    return word_rewards(seed)[texts[:, PROMPT:]].mean(1)


@functools.cache
def pairs(seed: int) -> tuple[Tensor, Tensor]:
    """Preferred and other texts, ``[n, LENGTH]`` each."""
    beginnings = prompts("train", 512)
    one, other = (write(teacher_model(), beginnings, seed=2 * seed + draw, length=LENGTH) for draw in (0, 1))
    first = (reward(one, seed) > reward(other, seed))[:, None]
    return torch.where(first, one, other), torch.where(first, other, one)


def log_likelihood(model: Any, texts: Tensor) -> Tensor:
    """Of what was written, ``[B]``."""
    log_probs = model(texts).logits[:, PROMPT - 1 : -1].log_softmax(-1)
    return log_probs.gather(-1, texts[:, PROMPT:, None])[..., 0].sum(1)


@functools.cache
def dpo(seed: int, *, reverse: bool = False) -> Any:
    """The policy after DPO on the pairs, or on the pairs exchanged."""
    preferred, other = pairs(seed)[:: -1 if reverse else 1]
    policy = copy.deepcopy(teacher_model()).requires_grad_()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=BUDGET["learning_rate"], fused=True)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(BUDGET["steps"]):
        rows = torch.randint(len(preferred), (BUDGET["batch_size"],), generator=generator)
        texts = torch.cat([preferred[rows], other[rows]])
        with torch.no_grad():
            reference = log_likelihood(teacher_model(), texts)
        better, worse = (log_likelihood(policy, texts) - reference).chunk(2)
        loss = -torch.nn.functional.logsigmoid(BETA * (better - worse)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return policy.eval()


def align_distil(seed: int) -> Any:
    """The policy after AlignDistil on the preferred texts."""
    texts, _ = pairs(seed)
    labels = texts.clone()
    labels[:, :PROMPT] = IGNORE_INDEX
    rows = {"input_ids": texts.tolist(), "attention_mask": torch.ones_like(texts).tolist(), "labels": labels.tolist()}
    policy = copy.deepcopy(teacher_model()).requires_grad_()
    teachers = {"dpo": dpo(seed), "reverse": dpo(seed, reverse=True)}
    train(
        policy,
        [{"name": "aligndistil", "beta": BETA, "teacher": list(teachers)}],
        Dataset.from_dict(rows),
        seed=seed,
        teacher=[{"name": n, "model": copy.deepcopy(m), "tokenizer": tokenizer()} for n, m in teachers.items()],
        processing_class=tokenizer(),
        data_collator=default_data_collator,
        plugins=["lm"],
        **BUDGET,
    )
    return policy


@torch.no_grad()
def measure(policy: Any, seed: int) -> dict[str, float]:
    """Reward of continuations of held-out beginnings, and the KL to the first policy on these, in nats a token."""
    texts = write(policy, prompts("test", 128), seed=seed, length=LENGTH)
    log_q, log_p = (model(texts).logits[:, PROMPT - 1 : -1].log_softmax(-1) for model in (policy, teacher_model()))
    divergence = (log_q.exp() * (log_q - log_p)).sum(-1).mean()
    return {"reward": float(reward(texts, seed).mean()), "kl_to_start": float(divergence)}


EXPERIMENT = Experiment(
    method="AlignDistil",
    package="hf-distill-lm",
    components=("loss aligndistil",),
    paper="Zhang et al. 2025, arXiv:2503.02832",
    evidence="faithful",
    what="A model trained by DPO, and one trained with the preferences exchanged, make a teacher that goes further "
    "than DPO went, most where the two differ. It teaches token by token.",
    needs="Two teachers of the same vocabulary, after DPO on preferences and on reversed preferences.",
    expects="more reward than by DPO, in as many steps",
    metric="reward",
    unit="standard deviations of a word",
    better="higher",
    baseline="DPO",
    arm="AlignDistil",
    arms={
        "start": lambda seed: measure(teacher_model(), seed),
        "DPO": lambda seed: measure(dpo(seed), seed),
        "AlignDistil": lambda seed: measure(align_distil(seed), seed),
    },
    data=("stories260k", "tinystories_sample"),
)
