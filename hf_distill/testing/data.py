"""A tiny tokenizer and tiny data sets, made in the process, that go with the models of `hf_distill.testing.models`.

    dataset = causal_lm_dataset(32)
    collator = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)

Sequences differ in length, so batches are padded and loss counts differ between them. What follows what can be learned:
training losses fall. Everything is seeded and no global generator is touched.
"""

from __future__ import annotations

import random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 64
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>", "<mask>")
PAD, BOS, EOS, UNK, MASK = range(len(SPECIAL_TOKENS))


def tiny_tokenizer(*, vocab_size: int = VOCAB_SIZE, word: str = "w") -> PreTrainedTokenizerFast:
    """A fast tokenizer of whole words: token i is "w<i>", after padding 0, beginning 1, end 2, unknown 3, mask 4.

    Another `word` gives another vocabulary of the same size.
    """
    vocabulary = [*SPECIAL_TOKENS, *(f"{word}{index}" for index in range(len(SPECIAL_TOKENS), vocab_size))]
    tokenizer = Tokenizer(
        models.WordLevel({token: index for index, token in enumerate(vocabulary)}, unk_token=SPECIAL_TOKENS[UNK])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ("pad_token", "bos_token", "eos_token", "unk_token", "mask_token")
    special = dict(zip(names, SPECIAL_TOKENS, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def random_sequences(
    num_sequences: int, *, vocab_size: int = VOCAB_SIZE, max_length: int = 12, min_length: int = 4, seed: int = 0
) -> list[list[int]]:
    """Token ids without special tokens, of different lengths; the first sequence has `max_length` tokens."""
    generator = random.Random(seed)
    lengths = [max_length, *(generator.randint(min_length, max_length) for _ in range(num_sequences - 1))]
    return [[generator.randrange(len(SPECIAL_TOKENS), vocab_size) for _ in range(length)] for length in lengths]


def causal_lm_dataset(
    num_examples: int,
    *,
    vocab_size: int = VOCAB_SIZE,
    max_length: int = 12,
    min_length: int = 4,
    num_domains: int = 0,
    seed: int = 0,
) -> Dataset:
    """Columns input_ids, attention_mask and labels (equal to input_ids); "domain" ("d0", "d1" ...) where asked for.

    The next token follows from the last one nine times out of ten; the rule differs between domains.
    """
    generator = random.Random(seed)
    num_words = vocab_size - len(SPECIAL_TOKENS)
    rows = []
    for index in range(num_examples):
        domain = index % num_domains if num_domains else 0
        words = [generator.randrange(num_words)]
        for _ in range(generator.randint(min_length, max_length) - 1):
            follows = (3 * words[-1] + 1 + 7 * domain) % num_words
            words.append(follows if generator.random() < 0.9 else generator.randrange(num_words))
        tokens = [word + len(SPECIAL_TOKENS) for word in words]
        row = {"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": tokens}
        rows.append(row | {"domain": f"d{domain}"} if num_domains else row)
    return Dataset.from_list(rows)


def classification_dataset(
    num_examples: int,
    *,
    num_labels: int = 3,
    vocab_size: int = VOCAB_SIZE,
    max_length: int = 12,
    min_length: int = 4,
    seed: int = 0,
) -> Dataset:
    """Columns input_ids, attention_mask and labels; seven tenths of the words tell the class (word modulo classes)."""
    generator = random.Random(seed)
    rows = []
    for _ in range(num_examples):
        label = generator.randrange(num_labels)
        own = [token for token in range(len(SPECIAL_TOKENS), vocab_size) if token % num_labels == label]
        tokens = [
            generator.choice(own) if generator.random() < 0.7 else generator.randrange(len(SPECIAL_TOKENS), vocab_size)
            for _ in range(generator.randint(min_length, max_length))
        ]
        rows.append({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": label})
    return Dataset.from_list(rows)
