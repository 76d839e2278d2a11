"""A table of latencies that depends on no clock, and models that are pruned with it."""

from __future__ import annotations

import pytest
import torch
import transformers

from hf_distill import LatencyTable
from hf_distill.testing import tiny_inputs, tiny_model

SIZES = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
SMALL = {**SIZES, "initializer_range": 0.2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def made(name, config, **fields):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(transformers, name)(getattr(transformers, config)(**fields)).eval()


MAKERS = {
    "bert": lambda: tiny_model("bert"),
    "bert, classes": lambda: tiny_model("bert_classifier"),
    "roberta": lambda: made("RobertaForMaskedLM", "RobertaConfig", **SMALL),
    "camembert": lambda: made("CamembertForSequenceClassification", "CamembertConfig", **SMALL),
    "electra": lambda: made("ElectraForSequenceClassification", "ElectraConfig", **SMALL, embedding_size=32),
    "distilbert": lambda: made(
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        **{"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.2},
    ),
    "llama, shared heads": lambda: tiny_model("llama"),
    "llama, one key-value head": lambda: tiny_model("llama", num_key_value_heads=1),
    "qwen2": lambda: tiny_model("qwen2"),
    "gpt2": lambda: tiny_model("gpt2"),
}


def make(name):
    """A model of a family whose biases are not zero."""
    model = MAKERS[name]()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                torch.nn.init.normal_(parameter, mean=float(parameter.detach().mean().round()), std=0.3)
    return model


@pytest.fixture(params=MAKERS)
def model(request):
    return make(request.param)


def batches(model, number=4):
    return [tiny_inputs(model, num_examples=8, seed=seed) for seed in range(number)]


@pytest.fixture
def table():
    """A head takes 100, a column 10, the rest 500; two blocks of 4 heads and 64 columns take 2,580 in all."""
    heads, columns = {n: 100.0 * n for n in range(5)}, {n: 10.0 * n for n in range(65)}
    return LatencyTable(heads, columns, 2, 500.0, 1, 9, "cpu", "float32")


@torch.no_grad()
def output(model):
    found = model(**tiny_inputs(model))
    return found.logits if "logits" in found else found.last_hidden_state
