"""`layer_drop`: the student is the teacher in which the dropped blocks do nothing."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    MimiConfig,
    MimiModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)

from hf_distill.models.layers import blocks, is_encoder_decoder, match_layers
from hf_distill.students import build_student, load_student
from hf_distill.testing import tiny_inputs, tiny_model

FAMILIES = {
    "llama": [0, 3],
    "llama_classifier": [1, 2],
    "qwen2": [3],
    "gpt2": [0, 2, 3],
    "gemma2": [0, 2, 3],
    "cohere": [1, 3],
    "granite": [0, 3],
    "mixtral": [2, 3],
    "bert_mlm": [0, 3],
    "bert_classifier": [1],
    "bert_tokens": [0, 1],
    "t5": [1, 3],
    "bart": [0, 3],
    "vit": [1, 2],
}


def deep_teacher(family: str):
    return tiny_model(family, num_hidden_layers=4, **({"decoder_layers": 4} if family == "bart" else {}),
                      **({"num_decoder_layers": 4} if family == "t5" else {}))  # fmt: skip


def skip_blocks(model, dropped):
    """Make blocks hand on their input; what else they return (T5's position bias) stays."""

    def skip(module, args, kwargs, output):
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    for stack in ("encoder", "decoder") if is_encoder_decoder(model) else ("",):
        for index in dropped:
            blocks(model, stack)[index].register_forward_hook(skip, with_kwargs=True)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_student_equals_the_teacher_without_those_blocks_also_after_saving(family, tmp_path):
    kept = FAMILIES[family]
    teacher = deep_teacher(family)
    build = build_student(teacher, layers=kept)
    inputs = tiny_inputs(teacher)
    with torch.no_grad():
        logits = build.model(**inputs).logits
        reference = skip_blocks(deep_teacher(family), set(range(4)) - set(kept))(**inputs).logits
        torch.testing.assert_close(logits, reference, rtol=0, atol=1e-6)
        build.model.save_pretrained(tmp_path)
        assert torch.equal(load_student(tmp_path)(**inputs).logits, logits)
    assert build.layer_map == ({"encoder": kept, "decoder": kept} if is_encoder_decoder(teacher) else kept)


@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_nothing_changes_no_bit_and_shares_no_memory(family):
    teacher = deep_teacher(family)
    build = build_student(teacher, layers=4)
    inputs = tiny_inputs(teacher)
    with torch.no_grad():
        before = teacher(**inputs).logits
        assert torch.equal(build.model(**inputs).logits, before)
        for parameter in build.model.parameters():
            parameter.zero_()
        assert torch.equal(teacher(**inputs).logits, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_equals_the_one_that_the_mapping_names(family):
    teacher = deep_teacher(family)
    build = build_student(teacher, layers=FAMILIES[family])
    student, available = build.model.state_dict(), teacher.state_dict()
    assert student.keys() == build.mapping.keys()
    for name, source in build.mapping.items():
        assert source.operator == "copy"
        assert torch.equal(student[name], available[source.tensors[0]]), name


def test_feature_losses_find_the_layer_map(tmp_path):
    teacher = deep_teacher("t5")
    build_student(teacher, encoder_layers=[1, 2], decoder_layers=[3]).model.save_pretrained(tmp_path)
    student = load_student(tmp_path)
    assert match_layers(student, teacher, stack="encoder") == [(0, 1), (1, 2)]
    assert match_layers(student, teacher, stack="decoder") == [(0, 3)]


def test_an_encoder_decoder_loses_blocks_where_it_was_said():
    teacher = deep_teacher("bart")
    only = build_student(teacher, decoder_layers=1)
    assert only.layer_map == {"encoder": [0, 1, 2, 3], "decoder": [0]}
    assert build_student(teacher).layer_map == {"encoder": [0, 3], "decoder": [0, 3]}
    both = build_student(teacher, layers=3, encoder_layers=[2], strategy="top")
    assert both.layer_map == {"encoder": [2], "decoder": [1, 2, 3]}
    assert (both.model.config.encoder_layers, both.model.config.decoder_layers) == (1, 3)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("uniform", [0, 2, 5]), ("last_of_block", [1, 3, 5]), ("every_k", [0, 2, 4]), ("top", [3, 4, 5])],
)
def test_strategies_choose_the_blocks_that_they_name(strategy, expected):
    assert build_student(tiny_model("gpt2", num_hidden_layers=6), layers=3, strategy=strategy).layer_map == expected


def test_lists_with_an_entry_per_layer_follow_their_blocks(tmp_path):
    teacher = deep_teacher("gemma2")
    kinds = teacher.config.layer_types
    assert kinds[0] != kinds[1]
    build_student(teacher, layers=[1, 2, 3]).model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).layer_types == kinds[1:]


def moe(**options):
    config = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"intermediate_size": 64, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
    config |= sizes | {"num_experts": 4, "num_experts_per_tok": 2, "num_hidden_layers": 4}
    return Qwen2MoeForCausalLM(Qwen2MoeConfig(**config, **options)).eval()


def test_a_list_that_only_happens_to_be_as_long_as_the_stack_stays_whole():
    teacher = tiny_model("llama", eos_token_id=[2, 3])
    assert build_student(teacher, layers=1).model.config.eos_token_id == [2, 3]


def test_lists_of_layer_numbers_are_counted_anew():
    teacher = moe(mlp_only_layers=[0, 2])
    build = build_student(teacher, layers=[1, 2, 3])
    assert build.model.config.mlp_only_layers == [1]
    inputs = tiny_inputs(teacher)
    torch.testing.assert_close(build.model(**inputs).logits, skip_blocks(teacher, [0])(**inputs).logits)


def test_a_block_that_cannot_stand_in_its_new_place_is_not_filled_from_elsewhere():
    teacher = moe(decoder_sparse_step=2)  # blocks 1 and 3 are sparse, by their place
    assert build_student(teacher, layers=[0, 3]).layer_map == [0, 3]
    with pytest.raises(ValueError, match=r"depends on its place.*layers\.1\.mlp\.experts"):
        build_student(teacher, layers=[0, 2])


def test_a_first_block_of_another_kind_is_not_mixed_with_the_next_one():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 8}
    widths = {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "vocab_size": 64}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    config = DeepseekV3Config(**sizes, **heads, **widths, **experts, first_k_dense_replace=1)
    teacher = DeepseekV3ForCausalLM(config).eval()
    assert build_student(teacher, layers=[0, 2]).layer_map == [0, 2]
    with pytest.raises(ValueError, match=r"nothing takes .*layers\.1\.mlp\.experts"):
        build_student(teacher, layers=[1, 2])


def test_a_second_stack_that_the_configuration_counts_along_is_not_cut_at_its_end():
    # The codec Mimi has one transformer behind its encoder and one before its decoder, as deep as each other.
    sizes = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    codec = {"num_filters": 2, "upsampling_ratios": [4, 2], "upsample_groups": 16, "codebook_size": 8}
    quantizer = {"codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_quantizers": 2}
    heads = {"num_key_value_heads": 2, "head_dim": 8, "num_semantic_quantizers": 1}
    teacher = MimiModel(MimiConfig(**sizes, **codec, **quantizer, **heads))
    with pytest.raises(
        ValueError, match=r"counts other blocks along.*nothing takes decoder\.decoder_transformer\.layers\.2\."
    ):
        build_student(teacher, layers=[0, 3])


def test_dtype_attention_generation_defaults_and_tied_weights_are_the_teachers():
    teacher = tiny_model("gpt2").to(torch.bfloat16)
    teacher.set_attn_implementation("eager")
    teacher.generation_config.max_new_tokens = 7
    student = build_student(teacher, layers=1).model
    assert student.dtype == torch.bfloat16
    assert student.config._attn_implementation == "eager"
    assert student.generation_config.max_new_tokens == 7
    assert student.lm_head.weight is student.transformer.wte.weight


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("llama", {"layers": 5}, "Asked for 5 blocks; the teacher has 2, so 1 to 2 can stay"),
        ("llama", {"layers": 0}, "Asked for 0 blocks"),
        ("llama", {"layers": [0, 2]}, r"teacher block 2; there are 2 \(0 to 1\)"),
        ("llama", {"layers": [1, -1]}, r"\[1, -1\]; expected at least one, each once"),
        ("llama", {"layers": []}, "expected at least one"),
        ("llama", {"layers": 1, "strategy": "middle"}, "'middle'; expected one of last_of_block"),
        ("llama", {"decoder_layers": 1}, "one stack of blocks; say layers"),
    ],
)
def test_impossible_choices_of_blocks_are_refused_with_the_reason(family, options, message):
    with pytest.raises(ValueError, match=message):
        build_student(tiny_model(family), **options)
