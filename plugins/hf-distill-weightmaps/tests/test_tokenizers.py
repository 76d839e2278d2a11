"""Trimmed tokenizers: texts of kept tokens are cut as before."""

from __future__ import annotations

import argparse
import ast
import json

import pytest
from hf_distill_weightmaps.tokenizers import closure, trimmed
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = f"{argparse.__doc__}\n{ast.__doc__}\n{json.__doc__}".splitlines()
PART = f"{ast.__doc__}".splitlines()


def make(kind):
    options = {"special_tokens": SPECIAL, "show_progress": False, "vocab_size": 400}
    if kind == "WordPiece":
        made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**options)
    elif kind == "Unigram":
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="[UNK]", **options)
    elif kind == "WordLevel":
        made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
        made.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(**options)
    else:
        made = Tokenizer(models.BPE(unk_token="[UNK]"))
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        trainer = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **options)
    made.train_from_iterator(TEXT, trainer)
    made.post_processor = {
        "WordPiece": processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]),
        "Unigram": processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2)),
        "BPE": processors.Sequence(
            [processors.ByteLevel(trim_offsets=False), processors.RobertaProcessing(("[SEP]", 3), ("[CLS]", 2))]
        ),
    }.get(kind, made.post_processor)
    names = ("unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **dict(zip(names, SPECIAL, strict=True)))
    tokenizer.add_tokens(["<added>"])
    return tokenizer


@pytest.mark.parametrize("kind", ["WordPiece", "Unigram", "WordLevel", "BPE"])
def test_texts_of_kept_tokens_are_cut_in_the_same_way(kind, tmp_path):
    tokenizer = make(kind)
    used = {one for ids in tokenizer(PART, add_special_tokens=False)["input_ids"] for one in ids}
    kept = closure(tokenizer, used)
    assert used <= set(kept)
    assert len(kept) < 0.95 * len(tokenizer)
    small = trimmed(tokenizer, kept)
    small.save_pretrained(tmp_path)
    for one in (small, PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        assert len(one) == len(kept)
        assert one.convert_ids_to_tokens(range(len(kept))) == tokenizer.convert_ids_to_tokens(kept)
        before, after = (which(PART, padding=True)["input_ids"] for which in (tokenizer, one))
        place = {token: index for index, token in enumerate(kept)}
        assert after == [[place[token] for token in ids] for ids in before]
        assert one.decode(after[0], skip_special_tokens=True) == tokenizer.decode(before[0], skip_special_tokens=True)
        assert one.all_special_tokens == tokenizer.all_special_tokens
        assert one("<added>", add_special_tokens=False)["input_ids"] == [place[len(tokenizer) - 1]]
    # Other text can still be cut, if not into the same tokens.
    assert max(small("quixotic zebras, 1789!")["input_ids"]) < len(kept)


def test_merges_on_the_way_to_a_token_are_kept():
    tokenizer = make("BPE")
    word = max((token for token in tokenizer.get_vocab() if token[0] == "Ġ" and token[1:].isascii()), key=len)
    text = " " + word[1:]
    kept = closure(tokenizer, tokenizer(text, add_special_tokens=False)["input_ids"])
    small = trimmed(tokenizer, kept)
    assert small.convert_ids_to_tokens(small(text, add_special_tokens=False)["input_ids"]) == [word]
    steps = [token for token in set(small.get_vocab()) - set(SPECIAL) - {"<added>", word} if len(token) > 1]
    assert steps  # "Ġa" and the like, which nothing was asked for
    assert len(steps) < len(word) * 2


def test_a_tokenizer_that_cannot_be_trimmed_is_refused():
    class Slow:
        pass

    with pytest.raises(ValueError, match="Slow is not a fast tokenizer"):
        closure(Slow(), [1])
