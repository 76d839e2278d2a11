"""Tokenizers of four kinds, trained on the spot, and models that go with them."""

from __future__ import annotations

import functools
import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hf_distill.testing import tiny_model

WORDS = "the cat sat on a mat and the dog ran to the other side of the road where it saw another cat again".split()
TEXT = [" ".join(WORDS[start:] + WORDS[:start]) + "." for start in range(len(WORDS))] + ["Über naïve 日本 cafés 🙂!"]
SPECIAL = ["<s>", "</s>", "<unk>", "<pad>"]


def _finished(tokenizer, **special):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


@functools.cache
def tokenizer_of(kind, vocab_size=300):
    """One that spells bytes as GPT-2's does, as Llama 2's does, as T5's does, as BERT's does, or just bytes."""
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    show = {"show_progress": False, "special_tokens": SPECIAL}
    if kind in ("byte_level", "bytes"):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        size = 256 + len(SPECIAL) if kind == "bytes" else vocab_size + len(SPECIAL)
        tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, **show))
        return _finished(tokenizer, **special)
    special["unk_token"] = "<unk>"
    if kind == "byte_fallback":
        trained = Tokenizer(models.BPE())
        trained.pre_tokenizer = pre_tokenizers.Metaspace()
        trained.train_from_iterator(TEXT[:-1], trainers.BpeTrainer(vocab_size=vocab_size, **show))
        learnt = json.loads(trained.to_str())["model"]
        pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *list(learnt["vocab"])[len(SPECIAL) :]]
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        merges = [tuple(merge) for merge in learnt["merges"]]
        model = models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        tokenizer = Tokenizer(model)
        tokenizer.add_special_tokens(SPECIAL)
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        tokenizer.decoder = decoders.Sequence(parts)
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
        return _finished(tokenizer, **special)
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=vocab_size, unk_token="<unk>", **show)
        tokenizer.train_from_iterator(TEXT, trainer)
        return _finished(tokenizer, **special)
    assert kind == "word_piece"
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=vocab_size, **show))
    return _finished(tokenizer, **special)


KINDS = ("byte_level", "bytes", "byte_fallback", "unigram", "word_piece")


def model_of(kind, *, seed, **options):
    """A tiny language model for such a tokenizer."""
    tokenizer = tokenizer_of(kind)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return tiny_model("llama", seed=seed, vocab_size=len(tokenizer), max_position_embeddings=512, **special, **options)
