"""Small models of every family that is described, with norms that are not ones and zeros."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from hf_distill.testing import tiny_inputs, tiny_model

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SHARED_HEADS = {**SIZES, "num_key_value_heads": 2, "initializer_range": 0.2, "max_position_embeddings": 64}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.2}


def made(name, config, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, name)(getattr(transformers, config)(**fields)).eval()


MAKERS = {
    "llama": lambda: tiny_model("llama"),
    "llama, tied": lambda: tiny_model("llama", tie_word_embeddings=True),
    "llama, classes": lambda: tiny_model("llama_classifier"),
    "llama, one key-value head": lambda: tiny_model("llama", num_key_value_heads=1),
    "mistral": lambda: made("MistralForCausalLM", "MistralConfig", **SHARED_HEADS, head_dim=8),
    "qwen2": lambda: tiny_model("qwen2"),
    "qwen3, wide heads": lambda: made("Qwen3ForCausalLM", "Qwen3Config", **SHARED_HEADS, head_dim=16),
    "qwen3, tied": lambda: made(
        "Qwen3ForCausalLM", "Qwen3Config", **SHARED_HEADS, head_dim=8, tie_word_embeddings=True
    ),
    "gpt2": lambda: tiny_model("gpt2"),
    "bert": lambda: tiny_model("bert_mlm"),
    "bert, classes": lambda: tiny_model("bert_classifier"),
    "bert, tokens": lambda: tiny_model("bert_tokens"),
    "roberta": lambda: made("RobertaForMaskedLM", "RobertaConfig", **SIZES, **NO_DROPOUT),
    "roberta, classes": lambda: made("RobertaForSequenceClassification", "RobertaConfig", **SIZES, **NO_DROPOUT),
    "xlm-roberta": lambda: made("XLMRobertaForTokenClassification", "XLMRobertaConfig", **SIZES, **NO_DROPOUT),
    "camembert": lambda: made("CamembertForMaskedLM", "CamembertConfig", **SIZES, **NO_DROPOUT),
    "vit": lambda: tiny_model("vit"),
}


def make(name):
    model = MAKERS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, mean=float(parameter.detach().mean().round()), std=0.3)
    return model


@torch.no_grad()
def logits(model, like=None):
    return model(**tiny_inputs(like or model)).logits


@pytest.fixture(params=MAKERS)
def model(request):
    return make(request.param)
