"""A small BERT that classifies, with a vocabulary of its own, made on the spot from nothing but texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

_SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


def fresh_classifier(
    texts: Sequence[str],
    *,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 2,
    vocab_size: int = 4000,
    max_length: int = 512,
    **config: Any,
) -> tuple[BertForSequenceClassification, PreTrainedTokenizerFast]:
    """A BERT with random weights, and the byte-level BPE tokenizer that it reads with, trained on `texts`.

    Args:
        texts: what the vocabulary is taken from.
        hidden_size: width.
        layers: number of blocks.
        heads: attention heads per block.
        vocab_size: the largest size of the vocabulary; few texts fill less.
        max_length: positions that it knows.
        config: further fields of `BertConfig`, ``id2label`` above all.
    """
    # Not WordPiece: its trainer numbers the alphabet in another order in every process.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **_SPECIAL)
    shape = {
        "vocab_size": len(fast),
        "hidden_size": hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": 4 * hidden_size,
        "max_position_embeddings": max_length,
        "pad_token_id": fast.pad_token_id,
    }
    return BertForSequenceClassification(BertConfig(**{**shape, **config})), fast
