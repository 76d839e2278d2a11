"""Language models for experiments: a pretrained teacher, a student a quarter to a tenth of its size, real text.

    figures = distil_lm(["task", {"name": "jsd", "beta": 0.1}], seed=0)
    figures["forward_kl"]

``domain="stories"``: the teacher is stories260k (260,032 parameters, 512 tokens, held-out cross-entropy 1.9), the
student a Llama of 2 layers and width 48 (80,112 parameters), the text 98,864 tokens of TinyStories.
``domain="eleven"``: the teacher is teacher_lm (5.3 million parameters, 4,096 tokens), the student a Llama of 3 layers
and width 64 (422,336 parameters), the text eleven domains of English, German, French, Romanian, chess and recipes.
Rows have 64 tokens. An arm takes about ten seconds on one core.
"""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, default_data_collator

from hf_distill import IGNORE_INDEX, DistillationTrainer, LocalTeacher
from hf_distill.data.language_modeling import pack

from .frame import SHARED
from .training import remembered, train

LENGTH = 64
HELD_OUT_ROWS = 128
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}


@dataclass(frozen=True)
class Domain:
    """A teacher's folder, and the budget and shape of a student that goes with it."""

    folder: str
    steps: int
    student: Mapping[str, int]


DOMAINS = {
    "stories": Domain(
        folder="stories260k/hf",
        steps=300,
        student={"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2},
    ),
    "eleven": Domain(
        folder="teacher_lm",
        steps=100,
        student={"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 3},
    ),
}


@remembered
def distil_lm(losses: Sequence[Any], **options: Any) -> dict[str, float]:
    """Train a student and measure it; takes what `train_lm` takes, gives what `measure_lm` gives."""
    trainer = train_lm(losses, **options)
    return measure_lm(trainer.student, domain=options.get("domain", "stories"))


def train_lm(
    losses: Sequence[Any],
    *,
    seed: int,
    domain: str = "stories",
    plugins: Sequence[Any] = (),
    teacher: Any = None,
    steps: int | None = None,
    batch_size: int = 8,
    learning_rate: float = 1e-2,
    first_steps: int = 0,
    shape: Mapping[str, int] | None = None,
    **more: Any,
) -> DistillationTrainer:
    """Train a new student and give the trainer.

    Args:
        losses: as the trainer takes them.
        seed: of the student's weights and the order of the data.
        domain: "stories" or "eleven".
        plugins: their names.
        teacher: what the trainer takes; by default the domain's own.
        steps: of the optimizer; about ten seconds by default.
        batch_size: rows a step.
        learning_rate: its peak.
        first_steps: steps of cross-entropy before, for methods that start from a student that can speak.
        shape: fields of the student's `LlamaConfig` that differ.
        more: of `training.train`: arguments, data_collator, selector, callbacks.
    """
    rows = text(domain)["train"]
    student = new_student(domain, seed=seed, shape=shape)
    budget = {"seed": seed, "batch_size": batch_size, "learning_rate": learning_rate}
    more.setdefault("data_collator", default_data_collator)
    if first_steps:
        train(student, ["task"], rows, steps=first_steps, data_collator=default_data_collator, **budget)
    return train(
        student,
        losses,
        rows,
        steps=steps or DOMAINS[domain].steps,
        teacher=LocalTeacher(teacher_model(domain), tokenizer=tokenizer(domain)) if teacher is None else teacher,
        plugins=plugins,
        processing_class=tokenizer(domain),
        **budget,
        **more,
    )


def new_student(domain: str = "stories", *, seed: int, shape: Mapping[str, int] | None = None) -> LlamaForCausalLM:
    """A student with random weights."""
    teacher = teacher_model(domain).config
    config = LlamaConfig(
        vocab_size=teacher.vocab_size,
        max_position_embeddings=512,
        # With the usual 0.02 so small a student takes three times as long to start.
        **{"initializer_range": 0.1, **HEADS, **DOMAINS[domain].student, **(shape or {})},
        tie_word_embeddings=True,
        bos_token_id=teacher.bos_token_id,
        eos_token_id=teacher.eos_token_id,
        pad_token_id=teacher.pad_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


@functools.cache
def teacher_model(domain: str = "stories") -> Any:
    """The teacher, in float32."""
    return AutoModelForCausalLM.from_pretrained(SHARED / DOMAINS[domain].folder, dtype=torch.float32).eval()


@functools.cache
def tokenizer(domain: str = "stories") -> Any:
    """The tokenizer of teacher and student."""
    return AutoTokenizer.from_pretrained(SHARED / DOMAINS[domain].folder)


@functools.cache
def text(domain: str = "stories") -> dict[str, Dataset]:
    """Rows of 64 tokens, to train on ("train") and held out ("test")."""
    return packed(domain, tokenizer(domain), max_length=LENGTH)


def packed(domain: str, own_tokenizer: Any, *, max_length: int) -> dict[str, Dataset]:
    """The domain's text in rows of `max_length` tokens of any tokenizer, "train" and "test"."""
    found = {split: pack(own, own_tokenizer, max_length=max_length) for split, own in documents(domain).items()}
    every = max(1, len(found["test"]) // HELD_OUT_ROWS)
    found["test"] = found["test"].select(range(0, every * min(HELD_OUT_ROWS, len(found["test"])), every))
    return found


def documents(domain: str) -> dict[str, Dataset]:
    """Texts and their domains, "train" and "test"."""
    pairs: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    if domain == "stories":
        path = SHARED / "tinystories_sample" / "tinystories.txt.gz"
        lines = [line.strip() for line in gzip.decompress(path.read_bytes()).decode().splitlines() if line.strip()]
        cut = len(lines) * 9 // 10  # in the order of the file, so that no story is on both sides
        pairs = {"train": [("\n".join(lines[:cut]), domain)], "test": [("\n".join(lines[cut:]), domain)]}
    else:
        for path in sorted((SHARED / "lm_domains").glob("*.jsonl.gz")):
            for row in map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines()):
                pairs[row["split"]].append((row["text"], path.name.split(".")[0]))
    return {
        split: Dataset.from_dict({"text": [t for t, _ in own], "domain": [d for _, d in own]})
        for split, own in pairs.items()
    }


@torch.no_grad()
def measure_lm(student: torch.nn.Module, *, domain: str = "stories") -> dict[str, float]:
    """Means over the held-out tokens.

    Returns:
        cross_entropy of the text, forward_kl (teacher to student) and reverse_kl, entropy of the student, all in nats a
        token; agreement: share of tokens where both have the same most likely next one; accuracy: share where the
        student's is right; ece: expected calibration error of its most likely token, 15 bins.
    """
    student_logits, teacher_logits, labels = [], [], []
    for rows in text(domain)["test"].with_format("torch").iter(batch_size=32):
        inputs = {"input_ids": rows["input_ids"].long(), "attention_mask": rows["attention_mask"].long()}
        targets = rows["labels"].long()[:, 1:]
        counts = targets != IGNORE_INDEX
        labels.append(targets[counts])
        student_logits.append(student(**inputs).logits[:, :-1][counts].float())
        teacher_logits.append(teacher_model(domain)(**inputs).logits[:, :-1][counts].float())
    return compare(torch.cat(student_logits), torch.cat(teacher_logits), torch.cat(labels))


def compare(student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> dict[str, float]:
    """What `measure_lm` gives, from finished logits ``[n, V]`` and labels ``[n]``."""
    log_q, log_p = student_logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    q, p = log_q.exp(), log_p.exp()
    confidence, guess = q.max(-1)
    return {
        "cross_entropy": float(torch.nn.functional.nll_loss(log_q, labels)),
        "forward_kl": float((p * (log_p - log_q)).sum(-1).mean()),
        "reverse_kl": float((q * (log_q - log_p)).sum(-1).mean()),
        "entropy": float(-(q * log_q).sum(-1).mean()),
        "agreement": float((guess == log_p.argmax(-1)).float().mean()),
        "accuracy": float((guess == labels).float().mean()),
        "ece": calibration_error(confidence, guess == labels),
    }


def calibration_error(confidence: Tensor, correct: Tensor, *, num_bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3), confidences ``[n]``."""
    bins = torch.bucketize(confidence, torch.linspace(0, 1, num_bins + 1)[1:-1])
    gaps = torch.zeros(num_bins).index_add_(0, bins, correct.float() - confidence)
    return float(gaps.abs().sum() / len(confidence))
