"""`fresh`: shapes that are possible, of the size that was asked for, without disturbing anything."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_distill.models.layers import match_layers
from hf_distill.students import build_student, load_student, skeleton
from hf_distill.students.fresh import fresh
from hf_distill.testing import tiny_inputs, tiny_model

FAMILIES = ["llama", "gpt2", "gemma2", "mixtral", "bert_mlm", "t5", "bart", "vit"]


@pytest.fixture(scope="module")
def big_models():
    """Models of real sizes, without memory."""
    with torch.device("meta"):
        return {
            "bert": BertModel(BertConfig()),
            "llama": LlamaForCausalLM(LlamaConfig(vocab_size=32000, hidden_size=2048, intermediate_size=5632,
                                                  num_hidden_layers=22, num_attention_heads=32, num_key_value_heads=4,
                                                  head_dim=None)),
            "t5": T5ForConditionalGeneration(T5Config(d_model=512, num_layers=8, num_decoder_layers=4)),
        }  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shape_in_numbers_runs_and_survives_saving(family, tmp_path):
    teacher = tiny_model(family)
    build = build_student(teacher, "fresh", hidden_size=24, layers=3)
    inputs = tiny_inputs(teacher)
    with torch.no_grad():
        logits = build.model(**inputs).logits
        assert logits.shape == teacher(**inputs).logits.shape
        build.model.save_pretrained(tmp_path)
        assert torch.equal(load_student(tmp_path)(**inputs).logits, logits)
    assert {source.operator for source in build.mapping.values()} == {"random"}
    assert build.model.config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("size", "num_parameters"),
    # The compact BERTs as published: github.com/google-research/bert, README, table of 24 models (4.4, 11.3 ... M).
    [("tiny", 4_385_920), ("mini", 11_170_560), ("small", 28_763_648), ("medium", 41_373_184)],
)
def test_named_shapes_have_the_published_numbers_of_parameters(big_models, size, num_parameters):
    build = build_student(big_models["bert"], "fresh", size=size)
    assert build.model.num_parameters() == num_parameters


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
@pytest.mark.parametrize(("size", "share"), [("half", 0.5), ("quarter", 0.25), ("eighth", 0.125)])
def test_shares_are_shares_of_the_parameters(big_models, family, size, share):
    teacher = big_models[family]
    student = skeleton(teacher, fresh(teacher, size=size).config)
    assert student.num_parameters() / teacher.num_parameters() == pytest.approx(share, rel=0.05)
    assert student.config.hidden_size < teacher.config.hidden_size
    assert student.config.num_hidden_layers < teacher.config.num_hidden_layers


def test_key_value_heads_keep_their_share_as_far_as_they_divide_the_heads():
    teacher = tiny_model("llama", hidden_size=48, num_attention_heads=12, num_key_value_heads=4)
    config = build_student(teacher, "fresh", heads=6).model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 8)
    config = build_student(teacher, "fresh", hidden_size=28).model.config
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (7, 1, 4)


def test_families_with_free_head_widths_keep_them():
    teacher = tiny_model("gemma2", head_dim=16)
    config = build_student(teacher, "fresh", hidden_size=16).model.config
    assert (config.num_attention_heads, config.head_dim) == (2, 16)


def test_heads_that_were_not_asked_for_have_an_even_width():
    teacher = tiny_model("llama")
    build = build_student(
        teacher, "fresh", hidden_size=36
    )  # 4 heads would be 9 wide, which rotary embeddings cannot cut
    assert build.model.config.head_dim % 2 == 0
    assert build.model(**tiny_inputs(teacher)).logits.isfinite().all()


def test_a_family_without_attention_heads_is_refused_in_words():
    teacher = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2))
    with pytest.raises(ValueError, match="MambaConfig has no field for heads"):
        build_student(teacher, "fresh", size="half")


def test_embeddings_narrower_than_the_blocks_keep_their_width():
    sizes = {"vocab_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "ffn_dim": 64}
    teacher = OPTForCausalLM(OPTConfig(hidden_size=32, word_embed_proj_dim=8, **sizes))
    config = build_student(teacher, "fresh", hidden_size=16).model.config
    assert (config.hidden_size, config.ffn_dim, config.word_embed_proj_dim) == (16, 32, 8)


def test_the_seed_decides_and_the_global_generator_is_touched_only_when_asked():
    teacher = tiny_model("llama")
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again = (build_student(teacher, "fresh", layers=1).model.lm_head.weight for _ in range(2))
    other = build_student(teacher, "fresh", layers=1, seed=1).model.lm_head.weight
    build_student(teacher, "fresh", size="half")
    build_student(teacher, layers=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    build_student(teacher, "fresh", layers=1, seed=None)
    assert not torch.equal(torch.get_rng_state(), state)


def test_layer_patterns_go_on_in_deeper_students_and_feature_losses_get_a_default_map():
    teacher = tiny_model("gemma2")
    student = build_student(teacher, "fresh", layers=5).model
    assert student.config.layer_types == (teacher.config.layer_types * 3)[:5]
    shallow = build_student(teacher, "fresh", layers=1).model
    assert match_layers(shallow, teacher) == [(0, 1)]


def test_other_fields_and_another_vocabulary_are_taken_over():
    teacher = tiny_model("llama")
    config = build_student(teacher, "fresh", vocab_size=80, config={"rms_norm_eps": 1e-3}).model.config
    assert (config.vocab_size, config.rms_norm_eps, config.pad_token_id) == (80, 1e-3, teacher.config.pad_token_id)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "third"}, "No size 'third'; there are half, quarter"),
        ({"size": "half", "layers": 2}, "size='half' already says layers"),
        ({"heads": 5}, r"5 heads cannot share a width of 32; possible: \[1, 2, 4, 8, 16, 32\]"),
        ({"layers": 0}, "layers is 0; a student has .* at least one"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"heads": 1.5}, "heads is 1.5"),
        ({"vocab_size": 2}, "A vocabulary of 2 loses the token 2, which is the eos_token_id; give .* at least 3"),
        ({"config": {"rms_norm_epss": 1}}, "did you mean 'rms_norm_eps'"),
    ],
)
def test_impossible_shapes_are_refused_with_the_reason(options, message):
    with pytest.raises(ValueError, match=message):
        build_student(tiny_model("llama"), "fresh", **options)
