"""`grow`: the same function where sizes allow, what the paper says where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration

from hf_distill import Plugins, build_student
from hf_distill.testing import tiny_inputs, tiny_model

from .conftest import logits, make

PLUGINS = Plugins(["weightmaps"])


def grow(teacher, **options):
    return build_student(teacher, "grow", plugins=PLUGINS, **options)


@pytest.mark.parametrize("factor", [2, 3])
def test_a_wider_student_is_the_same_function(model, factor):
    build = grow(model, hidden_size=factor * 32)
    assert build.model.config.hidden_size == factor * 32
    assert build.model.num_parameters() > 2 * model.num_parameters()
    torch.testing.assert_close(logits(build.model), logits(model), rtol=0, atol=3e-5)
    assert build.record["function_preserving"]
    assert build.mapping.keys() == build.model.state_dict().keys()
    assert {source.operator for source in build.mapping.values()} <= {"copy", "expand"}


def test_numbers_of_heads_and_neurons_that_do_not_divide_keep_the_function():
    teacher = make("qwen3, wide heads")
    build = grow(teacher, hidden_size=64, heads=12, key_value_heads=3, intermediate_size=150)
    config = build.model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (12, 3, 16)
    torch.testing.assert_close(logits(build.model), logits(teacher), rtol=0, atol=3e-5)
    only_heads = grow(teacher, heads=8, units="random").model  # of these no norm is taken
    torch.testing.assert_close(logits(only_heads), logits(teacher), rtol=0, atol=3e-5)


@pytest.mark.parametrize("options", [{"hidden_size": 40}, {"hidden_size": 64, "units": "random"}, {"layers": 3},
                                     {"hidden_size": 64, "mode": "aki"}])  # fmt: skip
def test_a_student_that_is_another_function_is_recorded_as_such(options):
    teacher = make("llama")
    build = grow(teacher, **options)
    assert not build.record["function_preserving"]
    assert (logits(build.model) - logits(teacher)).abs().max() > 1e-2


def test_the_same_seed_draws_the_same_copies_and_another_seed_others():
    teacher = make("llama")
    first, again, other = (grow(teacher, hidden_size=64, units="random", seed=seed).model for seed in (0, 0, 1))
    assert torch.equal(logits(first), logits(again))
    assert not torch.equal(logits(first), logits(other))


def test_blocks_are_stacked_whole_and_the_rest_comes_from_the_top():
    teacher = tiny_model("llama", num_hidden_layers=3)
    build = grow(teacher, layers=8)
    assert build.layer_map == [0, 1, 2, 0, 1, 2, 1, 2]
    for block, source in zip(build.model.model.layers, build.layer_map, strict=True):
        assert torch.equal(block.mlp.up_proj.weight, teacher.model.layers[source].mlp.up_proj.weight)
    assert build.model.config.num_hidden_layers == 8


def numpy_advanced(own, following, num_copies_read):
    """What the paper says of a matrix [out, in], both doubled by a cyclic map."""
    read = [np.concatenate([one, one], axis=1) / num_copies_read for one in (own, following)]
    return np.concatenate([read[0], read[1]], axis=0)


def test_advanced_initialisation_takes_copies_from_the_next_block():
    teacher = make("bert")
    build = grow(teacher, hidden_size=64, mode="aki")
    old, new = teacher.state_dict(), build.model.state_dict()
    name = "bert.encoder.layer.{}.{}"
    for block, following in ((0, 1), (1, 1)):  # the last one takes its own
        for layer in ("attention.self.query", "attention.self.value", "intermediate.dense"):
            own, then = (old[name.format(one, f"{layer}.weight")].numpy() for one in (block, following))
            expected = numpy_advanced(own, then, 2)
            np.testing.assert_allclose(new[name.format(block, f"{layer}.weight")], expected, rtol=1e-6)
            own, then = (old[name.format(one, f"{layer}.bias")].numpy() for one in (block, following))
            np.testing.assert_array_equal(new[name.format(block, f"{layer}.bias")], np.concatenate([own, then]))
        # What comes out of a block is written by the block alone.
        own = old[name.format(block, "output.dense.weight")].numpy()
        np.testing.assert_allclose(
            new[name.format(block, "output.dense.weight")], numpy_advanced(own, own, 2), rtol=1e-6
        )
    source = build.mapping[name.format(0, "attention.self.key.weight")]
    assert source.tensors == (name.format(0, "attention.self.key.weight"), name.format(1, "attention.self.key.weight"))


def test_fused_projections_keep_queries_keys_and_values_apart():
    teacher = make("gpt2")
    grown = grow(teacher, hidden_size=64, mode="aki").model.transformer.h[0].attn.c_attn.weight
    own, following = (teacher.transformer.h[block].attn.c_attn.weight for block in (0, 1))
    for part in range(3):
        old, then = (one[:, 32 * part : 32 * (part + 1)] / 2 for one in (own, following))
        expected = torch.cat([old, then], 1)
        torch.testing.assert_close(grown[:, 64 * part : 64 * (part + 1)], torch.cat([expected, expected]))


def test_a_student_from_files_equals_one_from_memory_and_survives_saving(model, tmp_path):
    model.save_pretrained(tmp_path / "small")
    build = grow(tmp_path / "small", hidden_size=64, layers=3)
    assert torch.equal(logits(build.model), logits(grow(model, hidden_size=64, layers=3).model))
    build.model.save_pretrained(tmp_path / "grown")
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "grown")), logits(build.model))


def test_a_grown_student_is_a_model_of_the_stock_library(tmp_path):
    grow(make("qwen3, tied"), hidden_size=64).model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded).__name__ == "Qwen3ForCausalLM"
    loaded(**tiny_inputs(loaded), labels=tiny_inputs(loaded)["input_ids"]).loss.backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 24}, "hidden of the big model is 24, of the small one 32"),
        ({"layers": 1}, "Asked for 1 blocks; growing starts with the 2 that there are"),
        ({"hidden_size": 64, "heads": 6, "key_value_heads": 4}, r"cannot share 4 key-value heads.*\[1, 2, 3, 6\]"),
        ({"hidden_size": 64, "key_value_heads": 8}, "1 query heads share a key-value head, in the small one 2"),
        ({"mode": "akj"}, "mode is 'akj'; expected fpi or aki"),
        ({"units": "best"}, "units is 'best'; expected cyclic or random"),
        ({"hidden_size": 40, "heads": 6}, "refuses the student.s configuration: .* not a multiple of"),
        ({"hiden_size": 64}, "did you mean 'hidden_size'"),
    ],
)
def test_impossible_sizes_and_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        grow(make("llama"), **options)


def test_a_hidden_size_that_heads_of_the_tied_width_do_not_make_is_refused():
    with pytest.raises(ValueError, match="5 heads of width 8 do not make a hidden size of 44"):
        grow(make("bert"), hidden_size=44)


def test_an_unknown_family_is_refused():
    teacher = BartForConditionalGeneration(BartConfig(vocab_size=32, d_model=16, encoder_layers=1, decoder_layers=1))
    with pytest.raises(ValueError, match=r"'bart' is not described; there are bert, camembert, gpt2.*Family\(blocks="):
        grow(teacher, hidden_size=32)
