"""The tiny tokenizer and data sets that every other test leans on."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_tokenizer


def test_the_tokenizer_knows_each_word_by_its_number_and_no_word_of_another_vocabulary() -> None:
    tokenizer = tiny_tokenizer(vocab_size=20)
    assert len(tokenizer) == 20
    assert tokenizer("w5 w19 w20 <mask>")["input_ids"] == [5, 19, tokenizer.unk_token_id, tokenizer.mask_token_id]
    assert tiny_tokenizer(vocab_size=20, word="v")("w5")["input_ids"] == [tokenizer.unk_token_id]


def test_data_sets_repeat_vary_in_length_and_leave_the_global_generator_alone() -> None:
    state = random.getstate()
    for make in (causal_lm_dataset, classification_dataset):
        rows = make(20)
        assert rows.to_list() == make(20).to_list() != make(20, seed=1).to_list()
        assert len({len(tokens) for tokens in rows["input_ids"]}) > 3
    assert random.getstate() == state


def test_what_is_to_be_learned_is_in_the_data() -> None:
    rows = causal_lm_dataset(200, num_domains=2)
    follows = [
        (second - 5) == (3 * (first - 5) + 1 + 7 * int(domain[1])) % 59
        for tokens, domain in zip(rows["input_ids"], rows["domain"], strict=True)
        for first, second in pairwise(tokens)
    ]
    assert 0.85 < sum(follows) / len(follows) < 0.95
    classes = [
        Counter(token % 3 for token in row["input_ids"]).most_common(1)[0][0] == row["labels"]
        for row in classification_dataset(200).to_list()
    ]
    assert sum(classes) / len(classes) > 0.9
