"""Captured features against what transformers reports itself, and the promise that capturing changes nothing."""

import logging
from contextlib import nullcontext

import pytest
import torch
import torch.distributed as dist
import transformers
from transformers import (
    DebertaV2Config,
    FalconConfig,
    GPTBigCodeConfig,
    GPTNeoXConfig,
    JambaConfig,
    ModernBertConfig,
    Phi3Config,
    Qwen2MoeConfig,
)

from hf_distill.models.features import Taps, ensure_eager
from hf_distill.testing import tiny_inputs, tiny_model

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 0,
}
OTHERS = {
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        Qwen2MoeConfig,
        {
            **{"num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
            "shared_expert_intermediate_size": 16,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", GPTNeoXConfig, {}),
    "phi3": ("Phi3ForCausalLM", Phi3Config, {"num_key_value_heads": 2}),
    "modernbert": ("ModernBertForMaskedLM", ModernBertConfig, {}),
    "deberta": ("DebertaV2ForMaskedLM", DebertaV2Config, {"relative_attention": True, "pos_att_type": "p2c|c2p"}),
    "falcon_groups": (
        "FalconForCausalLM",
        FalconConfig,
        {"new_decoder_architecture": True, "num_kv_heads": 2, "multi_query": False},
    ),
    "falcon_multi_query": ("FalconForCausalLM", FalconConfig, {"multi_query": True}),
    "bigcode": ("GPTBigCodeForCausalLM", GPTBigCodeConfig, {"multi_query": False, "n_positions": 32}),
}


def make(family, attention=None, **config):
    if family not in OTHERS:
        return tiny_model(family, **config)
    name, config_class, options = OTHERS[family]
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **options, **config})
    return getattr(transformers, name)._from_config(config, attn_implementation=attention).eval()


def make_eager(family):
    model = make(family, "eager" if "falcon" in family else None)  # Falcon cannot be switched later
    ensure_eager(model)
    return model


def prefixes(model):
    return ("encoder.", "decoder.") if model.config.is_encoder_decoder else ("",)


def capture(model, names, inputs=None):
    taps = Taps(model, names)
    with torch.no_grad(), taps.capture() as features:
        model(**(tiny_inputs(model) if inputs is None else inputs))
    return features


EVERYWHERE = [
    *("llama", "gpt2", "bert_classifier", "t5", "bart", "vit", "gemma2", "mixtral"),
    *("qwen2_moe", "gpt_neox", "phi3", "modernbert", "falcon_groups", "falcon_multi_query"),
]


@pytest.mark.parametrize("family", EVERYWHERE)
def test_capturing_leaves_outputs_bit_identical(family):
    model = make_eager(family)
    inputs = tiny_inputs(model)
    kinds = ["hidden", "attention", "scores", "query", "key", "value"] + ["router"] * ("moe" in family)
    names = [f"{prefix}{kind}.{index}" for prefix in prefixes(model) for kind in kinds for index in (0, 1)]
    before = model(**inputs)[0]
    with Taps(model, names).capture() as features:
        during = model(**inputs)[0]
    assert torch.equal(before, during)
    assert torch.equal(before, model(**inputs)[0])
    assert set(features) == set(names)


@pytest.mark.parametrize("family", ["llama", "gpt2", "bert_mlm", "t5", "bart", "vit", "gemma2", "mixtral"])
def test_hidden_and_attention_are_those_that_transformers_reports(family):
    model = make(family, num_hidden_layers=3)
    ensure_eager(model)
    inputs = tiny_inputs(model)
    with torch.no_grad():
        outputs = model(**inputs, output_hidden_states=True, output_attentions=True)
    for prefix in prefixes(model):
        stem = prefix.replace(".", "_")
        hidden = outputs[f"{stem}hidden_states"]
        attentions = outputs[f"{stem}attentions"]
        num_blocks = len(attentions)
        names = [f"{prefix}hidden.{i}" for i in range(num_blocks)]
        names += [f"{prefix}attention.{i}" for i in range(num_blocks)]
        features = capture(model, names, inputs)
        for index in range(num_blocks):
            torch.testing.assert_close(features[f"{prefix}hidden.{index}"], hidden[index], rtol=0, atol=0)
            torch.testing.assert_close(features[f"{prefix}attention.{index}"], attentions[index], rtol=0, atol=0)


def test_last_hidden_is_the_raw_block_output_and_not_the_normalised_one():
    model = tiny_model("llama")
    inputs = tiny_inputs(model)
    features = capture(model, ["hidden.-1", "hidden.2", "hidden.-3", "hidden.0"], inputs)
    with torch.no_grad():
        reported = model(**inputs, output_hidden_states=True).hidden_states
        assert not torch.allclose(features["hidden.-1"], reported[-1])
        torch.testing.assert_close(model.model.norm(features["hidden.-1"]), reported[-1])
    assert torch.equal(features["hidden.-1"], features["hidden.2"])
    assert torch.equal(features["hidden.-3"], features["hidden.0"])


@pytest.mark.parametrize("family", ["bert_mlm", "gpt2", "gemma2", "llama", "deberta", "t5"])
def test_scores_are_what_the_softmax_turns_into_the_probabilities(family):
    model = make(family)
    prefix = prefixes(model)[-1]
    ensure_eager(model)
    features = capture(model, [f"{prefix}scores.1", f"{prefix}attention.1"])
    torch.testing.assert_close(features[f"{prefix}scores.1"].softmax(-1), features[f"{prefix}attention.1"])


def test_scores_are_scaled_and_masked_products_of_query_and_key():
    model = make("bert_mlm")
    ensure_eager(model)
    inputs = tiny_inputs(model)
    features = capture(model, ["scores.0", "query.0", "key.0"], inputs)
    expected = features["query.0"] @ features["key.0"].transpose(-1, -2) / 8**0.5
    visible = inputs["attention_mask"].bool()[:, None, None, :].expand_as(expected)
    torch.testing.assert_close(features["scores.0"][visible], expected[visible])
    assert features["scores.0"][~visible].max() < -1e30


def test_attention_is_taken_before_dropout_which_would_make_logarithms_infinite():
    model = tiny_model("bert_mlm", attention_probs_dropout_prob=0.5).train()
    ensure_eager(model)
    attention = capture(model, ["attention.0"])["attention.0"]
    torch.testing.assert_close(attention.sum(-1), torch.ones(attention.shape[:-1]))


@pytest.mark.parametrize(
    ("family", "projection"),
    [
        ("llama", "o_proj"),
        ("vit", "o_proj"),
        ("phi3", "o_proj"),
        ("gpt2", "c_proj"),
        ("bigcode", "c_proj"),
        ("gpt_neox", "dense"),
        ("falcon_groups", "dense"),
        ("falcon_multi_query", "dense"),
        ("modernbert", "Wo"),
    ],
)
def test_fused_and_grouped_projections_are_split_the_way_the_model_splits_them(family, projection):
    model = make_eager(family)
    before_output = []

    def keep_input(module, args):
        before_output.append(args[0])

    name, module = next((n, m) for n, m in model.named_modules() if n.split(".")[-1] == projection)
    handle = module.register_forward_pre_hook(keep_input)
    features = capture(model, ["attention.0", "value.0", "query.0", "key.0", "scores.0"])
    handle.remove()
    share = features["attention.0"].shape[1] // features["value.0"].shape[1]
    heads = features["attention.0"] @ features["value.0"].repeat_interleave(share, dim=1)
    torch.testing.assert_close(heads.transpose(1, 2).flatten(2), before_output[0], msg=f"values into {name}")
    # Rotary embeddings leave position 0 as it is.
    keys = features["key.0"].repeat_interleave(share, dim=1)
    expected = (features["query.0"] * keys).sum(-1)[:, :, 0] / 8**0.5
    torch.testing.assert_close(features["scores.0"][:, :, 0, 0], expected)


@pytest.mark.parametrize("family", ["mixtral", "qwen2_moe"])
def test_router_logits_are_those_that_transformers_reports(family):
    model = make(family)
    inputs = tiny_inputs(model)
    with torch.no_grad():
        reported = model(**inputs, output_router_logits=True).router_logits
    features = capture(model, ["router.0", "router.-1"], inputs)
    assert torch.equal(features["router.0"], reported[0])
    assert torch.equal(features["router.-1"], reported[1])


def test_any_module_can_be_tapped_by_its_path():
    model = tiny_model("llama")
    features = capture(model, ["module:model.layers.1.mlp", "module:model.layers.0.self_attn", "module:lm_head"])
    assert features["module:model.layers.1.mlp"].shape == (3, 9, 32)
    assert features["module:model.layers.0.self_attn"].shape == (3, 9, 32)  # the first tensor of its tuple
    assert features["module:lm_head"].shape == (3, 9, 64)


@pytest.mark.parametrize(("family", "path"), [("bert_classifier", "classifier"), ("vit", "classifier")])
def test_the_captured_input_of_a_head_is_what_the_head_reads(family, path):
    model = tiny_model(family)
    features = capture(model, [f"input:{path}", f"module:{path}"])
    assert features[f"input:{path}"].shape == (3, 32)
    torch.testing.assert_close(model.get_submodule(path)(features[f"input:{path}"]), features[f"module:{path}"])


def test_attention_of_the_default_implementation_is_an_error_and_not_an_empty_tuple():
    model = tiny_model("bert_mlm")
    assert model.config._attn_implementation == "sdpa"
    taps = Taps(model, ["attention.1"])
    assert taps.requires_eager
    with pytest.raises(RuntimeError, match=r"attention\.1.*BertSelfAttention.*sdpa.*ensure_eager"), taps.capture():
        model(**tiny_inputs(model))
    model(**tiny_inputs(model))  # the failed capture left nothing behind


def test_eager_attention_is_set_with_a_log_line_and_hidden_states_do_not_ask_for_it(caplog):
    model = tiny_model("t5")
    assert not Taps(model, ["decoder.hidden.-1", "encoder.query.0", "module:lm_head"]).requires_eager
    with caplog.at_level(logging.WARNING):
        ensure_eager(model, "teacher")
        ensure_eager(model, "teacher")
    assert [record.message for record in caplog.records if "eager" in record.message] == [
        "Attention of the teacher set from sdpa to eager: a loss reads its attention maps."
    ]


def test_model_that_refuses_eager_attention_is_an_error():
    model = make("falcon_groups")
    with pytest.raises(ValueError, match=r"FalconForCausalLM \(student\) cannot be switched from sdpa to eager"):
        ensure_eager(model, "student")


@pytest.mark.parametrize(
    ("family", "name", "message"),
    [
        ("llama", "hiden.0", 'expected "hidden.<i>"'),
        ("llama", "hidden.3", 'which has 2 blocks; "hidden" runs from 0 to 2'),
        ("llama", "attention.2", '"attention" runs from 0 to 1'),
        ("llama", "encoder.hidden.0", 'has one stack of blocks; leave out "encoder"'),
        ("t5", "hidden.0", "two stacks.*encoder or decoder"),
        ("llama", "router.0", "no router"),
        ("llama", "module:model.layers.0.self_atn", "near names: .*model.layers.0.self_attn"),
    ],
)
def test_wrong_names_are_answered_with_what_there_is(family, name, message):
    with pytest.raises(ValueError, match=message):
        Taps(tiny_model(family), [name])


def test_block_without_attention_names_those_that_have_it():
    config = JambaConfig(
        **SIZES, num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, use_mamba_kernels=False
    )
    model = transformers.JambaForCausalLM(config)
    with pytest.raises(ValueError, match=r"block 0 \(JambaMambaDecoderLayer\) has no attention.*blocks that have: 1"):
        Taps(model, ["attention.0"])


def test_feature_of_a_module_that_did_not_run_is_an_error():
    model = tiny_model("llama")
    with pytest.raises(RuntimeError, match="Nothing was captured for module:lm_head"), torch.no_grad():
        with Taps(model, ["module:lm_head"]).capture():
            model.model(**tiny_inputs(model))


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_hooks_are_gone_after_the_block_and_after_an_error():
    model = tiny_model("llama")
    before = hooks(model)
    with Taps(model, []).capture() as features:
        assert hooks(model) == before
    assert features == {}
    ensure_eager(model)
    taps = Taps(model, ["hidden.0", "scores.1", "query.0"])
    with taps.capture():
        assert hooks(model) > before
        model(**tiny_inputs(model))
    assert hooks(model) == before
    with pytest.raises(ValueError, match="input_ids or inputs_embeds"), taps.capture():
        model()
    assert hooks(model) == before


def test_error_inside_attention_leaves_no_function_mode_behind(monkeypatch):
    model = tiny_model("llama")
    ensure_eager(model)
    monkeypatch.setattr(model.model.layers[0].self_attn, "o_proj", None)
    taps = Taps(model, ["scores.0", "attention.0"])
    with pytest.raises(TypeError, match="not callable"), taps.capture():
        model(**tiny_inputs(model))
    assert torch._C._len_torch_function_stack() == 0


def test_features_carry_gradients_to_the_parameters_that_made_them():
    model = tiny_model("llama").train()
    with Taps(model, ["key.0", "hidden.1"]).capture() as features:
        model(**tiny_inputs(model))
    features["key.0"].square().sum().backward()
    grads = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert "model.layers.0.self_attn.k_proj.weight" in grads
    assert not any("v_proj" in name or "layers.1" in name for name in grads)


def gradients(model, names, inputs, backward_inside):
    model.zero_grad()
    with Taps(model, names).capture() as features:
        logits = model(**inputs, use_cache=False).logits
        loss = logits.square().mean() + sum(feature.clamp_min(-9).square().mean() for feature in features.values())
        seen = dict(features)
        with nullcontext():
            if backward_inside:
                loss.backward()
        assert all(features[name] is seen[name] for name in names)
    if not backward_inside:
        loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("backward_inside", [True, False])
def test_recomputation_under_gradient_checkpointing_neither_replaces_features_nor_changes_gradients(backward_inside):
    model = tiny_model("llama").train()
    ensure_eager(model)
    inputs = tiny_inputs(model)
    names = ["hidden.1", "attention.0", "scores.1", "query.1", "module:model.layers.0.mlp"]
    plain = gradients(model, names, inputs, backward_inside)
    model.activation_checkpointing_enable({"use_reentrant": False})
    torch.testing.assert_close(gradients(model, names, inputs, backward_inside), plain)


def test_reentrant_checkpointing_would_lose_gradients_and_is_an_error():
    model = tiny_model("llama").train()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with Taps(model, ["hidden.1"]).capture() as features:  # block outputs are outside the checkpoint
        model(**tiny_inputs(model), use_cache=False)
    assert features["hidden.1"].requires_grad
    with pytest.raises(RuntimeError, match="use_reentrant"), Taps(model, ["query.1"]).capture():
        model(**tiny_inputs(model), use_cache=False)
    with torch.no_grad(), Taps(model, ["query.1"]).capture() as features:
        model(**tiny_inputs(model))
    assert features["query.1"].shape == (3, 4, 9, 8)


def test_second_forward_pass_replaces_the_first():
    model = tiny_model("llama")
    first, second = tiny_inputs(model), tiny_inputs(model, seed=5)
    with torch.no_grad(), Taps(model, ["hidden.0"]).capture() as features:
        model(**first)
        model(**second)
    assert torch.equal(features["hidden.0"], capture(model, ["hidden.0"], second)["hidden.0"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # raised by peft 0.18
def test_peft_adapters_are_looked_through():
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    inputs = tiny_inputs(model)
    plain = capture(model, ["hidden.1", "query.1", "module:model.layers.0.mlp"], inputs)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", r=2))
    features = capture(adapted, list(plain), inputs)  # the adapters start at zero
    for name, tensor in plain.items():
        assert torch.equal(features[name], tensor)


def test_forward_through_ddp_is_captured(tmp_path):
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = tiny_model("llama").train()
        inputs = tiny_inputs(model)
        expected = capture(model, ["hidden.1", "query.0"], inputs)
        wrapper = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        with Taps(wrapper, list(expected)).capture() as features:
            wrapper(**inputs)
        for name, tensor in expected.items():
            assert torch.equal(features[name], tensor)
    finally:
        dist.destroy_process_group()
