"""What a model costs, against closed forms and files."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open

from hf_distill.students import skeleton
from hf_distill.students.cost import model_cost
from hf_distill.testing import tiny_model

H, F, V, S = 32, 64, 64, 24  # width, inner width, vocabulary, length of the sequences
ATTENTION = 2 * S * H  # scores and mixture, for one token
CLOSED_FORMS = {
    "llama": 2 * (H * H + 2 * H * H // 2 + H * H + 3 * H * F + ATTENTION) + H * V,
    "gpt2": 2 * (4 * H * H + 2 * H * F + ATTENTION) + H * V,
    "bert_mlm": 2 * (4 * H * H + 2 * H * F + ATTENTION) + H * H + H * V,
    "mixtral": 2 * (3 * H * H + 4 * H + 2 * 3 * H * F + ATTENTION) + H * V,  # two of four experts
    "t5": 2 * (4 * H * H + 2 * H * F + ATTENTION) + 2 * (8 * H * H + 2 * H * F + 2 * ATTENTION) + H * V,
}


@pytest.mark.parametrize("family", CLOSED_FORMS)
def test_counted_operations_are_those_of_the_closed_form(family):
    cost = model_cost(tiny_model(family), length=S, measure=False)
    assert cost.flops_per_token == 2 * CLOSED_FORMS[family]
    assert (cost.latency, cost.tokens_per_second) == (None, None)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_size_is_that_of_the_file(family, dtype, tmp_path):
    model = tiny_model(family).to(dtype)
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        sizes = [file.get_tensor(key).numel() * dtype.itemsize for key in file.keys()]
    cost = model_cost(model, measure=False, length=8)
    assert cost.bytes == sum(sizes)
    assert cost.parameters == model.num_parameters()


def test_a_model_without_values_is_counted_like_one_with_them():
    model = tiny_model("llama")
    empty = skeleton(model, model.config)
    assert model_cost(empty, length=8) == model_cost(model, length=8, measure=False)


def test_measuring_leaves_the_model_as_it_was():
    model = tiny_model("vit").train()
    cost = model_cost(model, batch_size=2, warm_up=1, repeats=1)
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert cost.latency > 0
    assert cost.tokens_per_second > 0
    assert cost.spread == 1.0
