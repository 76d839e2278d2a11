"""`coalesce`, `decoalesce`, `interpolate`: the framework's identities, and figures of the authors' code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from hf_distill import Plugins, build_student
from hf_distill.testing import tiny_model

from .conftest import logits, make

PLUGINS = Plugins(["weightmaps"])
OFFICIAL = json.loads(Path(__file__).with_name("multi_level_official.json").read_text())
# The framework's code doubles embeddings where this package halves the norm before the tied head.
EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings", "wte", "wpe")
HEAD_NORMS = ("cls.predictions.transform.LayerNorm", "ln_f")


def build(builder, teacher, **options):
    return build_student(teacher, builder, plugins=PLUGINS, **options)


def waves(model):
    """The weights that the authors' code was run on, which any program can make."""
    with torch.no_grad():
        for index, (name, parameter) in enumerate(model.named_parameters()):
            values = torch.sin(torch.arange(parameter.numel(), dtype=torch.float64) * 0.37 + index) * 0.3
            is_gain = name.endswith("weight") and ("LayerNorm" in name or ".ln_" in name)
            parameter.copy_(values.reshape(parameter.shape) + float(is_gain))
    return model.eval()


def bert(width, layers):
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 8}
    config = BertConfig(vocab_size=24, intermediate_size=4 * width, max_position_embeddings=12, **sizes)
    return waves(BertForMaskedLM(config))


def gpt2(width, layers):
    sizes = {"n_embd": width, "n_layer": layers, "n_head": width // 8, "n_positions": 12, "vocab_size": 24}
    return waves(GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None, **sizes)))


@pytest.mark.parametrize("case", OFFICIAL)
def test_figures_of_the_authors_code_are_met(case):
    # map_tools/mapper.py (BertMapper, GPT2Mapper) at HEAD, on the weights of `waves`: of each tensor the sum and the
    # sum weighted by cos(0), cos(1) ...
    family, depth, operator = case.split()
    maker = {"bert": bert, "gpt2": gpt2}[family]
    if operator == "coalesce":
        student = build("coalesce", maker(32, 4), depth=depth).model
    else:
        student = build("decoalesce", maker(16, 2), depth=depth).model
    factor = 2 if operator == "coalesce" else 0.5
    for name, parameter in student.named_parameters():
        flat = parameter.detach().double().flatten()
        if any(one in name for one in EMBEDDINGS):
            flat = flat * factor
        elif any(one in name for one in HEAD_NORMS):
            flat = flat / factor
        found = [float(flat.sum()), float((flat * torch.cos(torch.arange(len(flat), dtype=torch.float64))).sum())]
        assert found == pytest.approx(OFFICIAL[case][name], rel=1e-5, abs=2e-5), name
    if family == "bert":  # whose embeddings are normed, so that their doubling changes nothing but the head
        with torch.no_grad():
            output = student(torch.tensor([[1, 5, 9, 13, 2], [3, 7, 21, 0, 11]])).logits[0, 1, :6]
        assert output.tolist() == pytest.approx(OFFICIAL[case]["logits"], abs=1e-4)


@pytest.mark.parametrize("depth", ["adjacent", "apart"])
def test_coalescing_undoes_decoalescing(model, depth):
    big = build("decoalesce", model, depth=depth)
    assert big.model.config.num_hidden_layers == 4
    small = build("coalesce", big.model, depth=depth)
    for name, tensor in small.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert small.mapping.keys() == small.model.state_dict().keys()


def test_decoalescing_in_width_keeps_the_function(model):
    big = build("decoalesce", model, layers=2)
    assert big.record["function_preserving"]
    torch.testing.assert_close(logits(big.model), logits(model), rtol=0, atol=3e-5)
    assert not build("decoalesce", model).record["function_preserving"]


@pytest.mark.parametrize(("depth", "groups"), [("adjacent", [[0, 1], [2, 3]]), ("apart", [[0, 2], [1, 3]])])
def test_blocks_are_averaged_in_their_groups(depth, groups):
    teacher = tiny_model("llama", num_hidden_layers=4)
    student = build("coalesce", teacher, hidden_size=32, depth=depth)
    assert student.layer_map == [group[-1] for group in groups]
    for block, group in zip(student.model.model.layers, groups, strict=True):
        expected = torch.stack([teacher.model.layers[one].mlp.up_proj.weight for one in group]).mean(0)
        assert torch.equal(block.mlp.up_proj.weight, expected)


def test_coalescing_undoes_decoalescing_of_sizes_that_do_not_divide():
    small = make("qwen3, wide heads")
    big = build("decoalesce", small, hidden_size=40, heads=6, key_value_heads=3, intermediate_size=100, layers=6)
    back = build("coalesce", big.model, hidden_size=32, heads=4, key_value_heads=2, intermediate_size=48, layers=2)
    for name, tensor in back.model.state_dict().items():
        torch.testing.assert_close(tensor, small.state_dict()[name])


@pytest.mark.parametrize(
    ("name", "alpha"), [("llama", 0.0), ("llama", 0.25), ("llama", 1.0), ("bert", 0.5), ("vit", 0.5)]
)
def test_interpolation_takes_alpha_of_the_grown_small_model_and_the_rest_of_the_big_one(name, alpha, tmp_path):
    model = make(name)
    big = build("decoalesce", model).model
    with torch.no_grad():
        for parameter in big.parameters():
            parameter.add_(0.01 * torch.sin(torch.arange(parameter.numel()).reshape(parameter.shape)))
    big.save_pretrained(tmp_path)
    grown, student = build("decoalesce", model).model, build("interpolate", model, onto=str(tmp_path), alpha=alpha)
    values = big.state_dict()
    for name, tensor in student.model.state_dict().items():
        expected = (1 - alpha) * values[name].double() + alpha * grown.state_dict()[name].double()
        torch.testing.assert_close(tensor.double(), expected, rtol=0, atol=1e-7)
    assert {source.operator for source in student.mapping.values()} == {"interpolate"}


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        ("coalesce", {"layers": 3}, r"2 blocks do not make 3 groups of one size; numbers that divide 2: \[1, 2\]"),
        ("coalesce", {"hidden_size": 64}, "hidden of the big model is 32, of the small one 64"),
        ("coalesce", {"depth": "near"}, "depth is 'near'; expected adjacent or apart"),
        ("decoalesce", {"layers": 3}, "3 blocks do not make 2 groups"),
        ("interpolate", {"onto": "x", "alpha": 1.5}, "alpha is 1.5; expected a share from 0 to 1"),
    ],
)
def test_impossible_options_are_refused(builder, options, message):
    with pytest.raises(ValueError, match=message):
        build(builder, make("llama"), **options)


def test_models_that_do_not_belong_together_are_refused(tmp_path):
    make("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="is 'gpt2'; the small model is 'llama'"):
        build("interpolate", make("llama"), onto=str(tmp_path / "gpt2"))
    tiny_model("llama", vocab_size=80, hidden_size=64).save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match=r"embed_tokens\.weight of .* is \(80, 64\); decoalesced it is \(64, 64\)"):
        build("interpolate", make("llama"), onto=str(tmp_path / "words"))
