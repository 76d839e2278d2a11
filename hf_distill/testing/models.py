"""Tiny models, made in the process from a configuration: no download, the same weights every time.

    model = tiny_model("llama", num_hidden_layers=4)
    model(**tiny_inputs(model)).logits

Weights are drawn wider than usual and dropout is off, so that predictions are far from uniform and runs are repeatable.
The models agree with `hf_distill.testing.data`: 64 words in the vocabulary, padding 0, beginning 1, end 2.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from .data import BOS, EOS, PAD, VOCAB_SIZE, random_sequences

LAYERS, HEADS, WIDTH, INNER = 2, 4, 32, 64

_TEXT = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
_BLOCKS = {"hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "initializer_range": 0.2}
_DECODER = {**_TEXT, **_BLOCKS, "intermediate_size": INNER, "num_key_value_heads": 2, "max_position_embeddings": 64}
_BERT = {
    **{key: value for key, value in _TEXT.items() if key not in ("bos_token_id", "eos_token_id")},
    **_BLOCKS,
    **{"intermediate_size": INNER, "max_position_embeddings": 64},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
_GPT2 = {
    **_TEXT,
    **{"n_embd": WIDTH, "n_layer": LAYERS, "n_head": HEADS, "n_inner": INNER, "n_positions": 64},
    **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "initializer_range": 0.2},
}
_T5 = {
    **{"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": PAD},
    **{"d_model": WIDTH, "d_kv": WIDTH // HEADS, "d_ff": INNER, "num_heads": HEADS},
    **{"num_layers": LAYERS, "num_decoder_layers": LAYERS, "dropout_rate": 0.0, "initializer_factor": 1.0},
}
_BART = {
    **_TEXT,
    **{"d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS, "max_position_embeddings": 64},
    **{"encoder_attention_heads": HEADS, "decoder_attention_heads": HEADS},
    **{"encoder_ffn_dim": INNER, "decoder_ffn_dim": INNER, "dropout": 0.0, "init_std": 0.2},
    **{"decoder_start_token_id": EOS, "forced_eos_token_id": None},
}
_VIT = {
    **_BLOCKS,
    **{"intermediate_size": INNER, "image_size": 16, "patch_size": 4, "num_channels": 3},
    **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
_GEMMA = {**_DECODER, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 4}


class _Family(NamedTuple):
    model: str
    config: str
    options: dict[str, Any]


_FAMILIES: dict[str, _Family] = {
    "llama": _Family("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "llama_classifier": _Family("LlamaForSequenceClassification", "LlamaConfig", {**_DECODER, "num_labels": 3}),
    "qwen2": _Family("Qwen2ForCausalLM", "Qwen2Config", _DECODER),
    "gpt2": _Family("GPT2LMHeadModel", "GPT2Config", _GPT2),
    "gemma2": _Family("Gemma2ForCausalLM", "Gemma2Config", _GEMMA),
    "cohere": _Family("CohereForCausalLM", "CohereConfig", {**_DECODER, "logit_scale": 0.25}),
    "granite": _Family("GraniteForCausalLM", "GraniteConfig", {**_DECODER, "logits_scaling": 2.0}),
    "mixtral": _Family(
        "MixtralForCausalLM", "MixtralConfig", {**_DECODER, "num_local_experts": 4, "num_experts_per_tok": 2}
    ),
    "bert": _Family("BertModel", "BertConfig", _BERT),
    "bert_mlm": _Family("BertForMaskedLM", "BertConfig", _BERT),
    "bert_classifier": _Family("BertForSequenceClassification", "BertConfig", {**_BERT, "num_labels": 3}),
    "bert_tokens": _Family("BertForTokenClassification", "BertConfig", {**_BERT, "num_labels": 3}),
    "t5": _Family("T5ForConditionalGeneration", "T5Config", _T5),
    "bart": _Family("BartForConditionalGeneration", "BartConfig", _BART),
    "vit": _Family("ViTForImageClassification", "ViTConfig", {**_VIT, "num_labels": 3}),
    "deit": _Family("DeiTForImageClassificationWithTeacher", "DeiTConfig", {**_VIT, "num_labels": 3}),
}


def tiny_model(family: str, *, seed: int = 0, **config: Any) -> PreTrainedModel:
    """A small model of `family`, in eval mode, on the CPU, in float32.

    Args:
        family: one of the names in this file's table: "llama", "gpt2", "bert_classifier", "t5", "vit" ...
        seed: decides the weights; the global generators stay as they were.
        config: replaces fields of the configuration, by the family's own names or by the common ones
            (`hidden_size`, `num_hidden_layers`, `num_attention_heads`).

    Raises:
        ValueError: there is no such family; lists them.
    """
    if family not in _FAMILIES:
        raise ValueError(f"No tiny model of family {family!r}; there are {', '.join(_FAMILIES)}.")
    model_name, config_name, options = _FAMILIES[family]
    config_class = getattr(transformers, config_name)
    own_names = {config_class.attribute_map.get(key, key): value for key, value in config.items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, model_name)(config_class(**{**options, **own_names}))
    finished: PreTrainedModel = model.eval()
    return finished


def tiny_inputs(
    model: PreTrainedModel, *, num_examples: int = 3, max_length: int = 9, seed: int = 0
) -> dict[str, Tensor]:
    """A batch that `model` takes, without labels: padded token ids of different lengths, or images for a vision model.

    The first sequence has `max_length` tokens; padding is on the right.
    """
    config = model.config
    if hasattr(config, "num_channels"):
        generator = torch.Generator().manual_seed(seed)
        shape = (num_examples, config.num_channels, config.image_size, config.image_size)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    sequences = random_sequences(num_examples, vocab_size=config.vocab_size, max_length=max_length, seed=seed)
    inputs = _pad(sequences)
    if config.is_encoder_decoder:
        targets = random_sequences(num_examples, vocab_size=config.vocab_size, max_length=max_length, seed=seed + 1)
        inputs["decoder_input_ids"] = _pad(targets)["input_ids"]
    return inputs


def _pad(sequences: list[list[int]]) -> dict[str, Tensor]:
    length = max(map(len, sequences))
    input_ids = torch.tensor([sequence + [PAD] * (length - len(sequence)) for sequence in sequences])
    return {"input_ids": input_ids, "attention_mask": (input_ids != PAD).long()}
