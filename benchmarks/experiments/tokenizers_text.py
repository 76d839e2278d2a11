"""Students with a tokenizer of their own, beside the teachers of `language_models`, measured in bits per byte.

``"stories"``: the student reads bytes in rows of 192, the teacher a SentencePiece vocabulary of 512. ``"eleven"``: the
student has a byte-level BPE of 1,024 tokens, in rows of 64, the teacher one of 4,096.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, default_data_collator

from hf_distill import IGNORE_INDEX, LocalTeacher

from .language_models import DOMAINS, HEADS, documents, packed, teacher_model, tokenizer
from .training import remembered, train

END = "<end>"
VOCABULARY = {"stories": 257, "eleven": 1024}  # 256 bytes and the end of a text; in "eleven" merges, too
LENGTH = {"stories": 192, "eleven": 64}


@remembered
def distil(losses: Sequence[Any], *, seed: int, domain: str = "stories") -> dict[str, float]:
    """Train a student and measure it on held-out text."""
    student = _new_student(domain, seed=seed)
    train(
        student,
        losses,
        _rows(domain)["train"],
        seed=seed,
        steps=DOMAINS[domain].steps,
        batch_size=8,
        learning_rate=1e-2,
        teacher=LocalTeacher(teacher_model(domain), tokenizer=tokenizer(domain)),
        plugins=["tokenizers"],
        processing_class=student_tokenizer(domain),
        data_collator=default_data_collator,
    )
    return {"bits_per_byte": bits_per_byte(student, domain)}


@functools.cache
def student_tokenizer(domain: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE, trained on the domain's training text; without merges where it has one token a byte."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY[domain],
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(documents(domain)["train"]["text"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END, pad_token=END)


@functools.cache
def _rows(domain: str) -> dict[str, Dataset]:
    return packed(domain, student_tokenizer(domain), max_length=LENGTH[domain])


def _new_student(domain: str, *, seed: int) -> LlamaForCausalLM:
    own = student_tokenizer(domain)
    config = LlamaConfig(
        vocab_size=len(own),
        max_position_embeddings=512,
        **{"initializer_range": 0.1, **HEADS, **DOMAINS[domain].student},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config)


@torch.no_grad()
def bits_per_byte(student: torch.nn.Module, domain: str) -> float:
    """Cross-entropy of the held-out text in bits, over the bytes of what is predicted; an end counts as one."""
    own, nats, num_bytes = student_tokenizer(domain), 0.0, 0
    # In this alphabet each character of a token is a byte.
    sizes = torch.tensor([1 if token == END else len(token) for token in own.convert_ids_to_tokens(range(len(own)))])
    for batch in _rows(domain)["test"].with_format("torch").iter(batch_size=32):
        labels = batch["labels"].long()[:, 1:]
        counts = labels != IGNORE_INDEX
        logits = student(batch["input_ids"].long(), attention_mask=batch["attention_mask"].long()).logits[:, :-1]
        nats += float(torch.nn.functional.cross_entropy(logits[counts].double(), labels[counts], reduction="sum"))
        num_bytes += int(sizes[labels[counts]].sum())
    return nats / math.log(2) / num_bytes
