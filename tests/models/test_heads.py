"""Heads: what a model's own forward pass gives is the truth, bit for bit."""

from __future__ import annotations

import copy
import warnings

import peft
import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM
from transformers.modeling_outputs import CausalLMOutput

from hf_distill.models.heads import Head, UnsupportedHead
from hf_distill.testing import tiny_inputs, tiny_model

WITH_HEAD = ["llama", "qwen2", "gpt2", "gemma2", "cohere", "granite", "mixtral", "bert_mlm", "t5", "bart"]
peft_warns = pytest.mark.filterwarnings("ignore::FutureWarning:transformers", "ignore::UserWarning:peft")


class ChangedLlama(LlamaForCausalLM):
    """A model whose own code does something to the logits: what `change(self, logits, input_ids)` says."""

    def __init__(self, config):
        super().__init__(config)
        self.gain = nn.Parameter(torch.linspace(0.5, 2, config.vocab_size, device="cpu"))  # whatever the context says

    def forward(self, input_ids, **kwargs):
        states = self.model(input_ids).last_hidden_state
        return CausalLMOutput(logits=self.change(self.lm_head(states), input_ids))


def changed(change):
    return type("Changed", (ChangedLlama,), {"change": change})(tiny_model("llama").config).eval()


def captured(head, model, inputs, *, skip=True):
    with torch.no_grad(), head.deferred(skip=skip) as caught:
        outputs = model(**inputs)
    return caught.states, outputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", WITH_HEAD)
def test_projected_states_are_the_models_own_logits(family, dtype):
    model = tiny_model(family).to(dtype)
    if family == "bart":
        model.final_logits_bias.normal_()
    inputs = tiny_inputs(model)
    with torch.no_grad():
        expected = model(**inputs).logits
    head = Head.of(model)
    states, _ = captured(head, model, inputs)
    with torch.no_grad():
        assert torch.equal(head.project(states), expected)
        rows = head.project(states[inputs["attention_mask"].bool()]) if states.shape[:2] == expected.shape[:2] else None
    if rows is not None and family != "t5":  # decoder positions are not the encoder's
        torch.testing.assert_close(rows, expected[inputs["attention_mask"].bool()])
    assert head.vocab_size == expected.shape[-1]


@pytest.mark.parametrize("family", ["llama_classifier", "bert_classifier", "bert_tokens", "vit"])
def test_classifiers_have_no_head_to_run_on_rows(family):
    assert Head.of(tiny_model(family)) is None


@pytest.mark.parametrize("family", ["llama", "bart"])
def test_skipping_leaves_no_logits_and_observing_leaves_all(family):
    model = tiny_model(family)
    inputs = tiny_inputs(model)
    with torch.no_grad():
        expected = model(**inputs).logits
    head = Head.of(model)
    states, outputs = captured(head, model, inputs)
    assert outputs.logits.numel() == 0
    observed, outputs = captured(head, model, inputs, skip=False)
    assert torch.equal(outputs.logits, expected)
    assert torch.equal(observed, states)


def test_a_failing_forward_pass_leaves_the_head_as_it_was():
    model = tiny_model("llama")
    before = dict(model.lm_head.__dict__)
    with pytest.raises(ValueError, match="input_ids"), Head.of(model).deferred(skip=True):
        model()
    assert model.lm_head.__dict__ == before


def test_a_forward_that_hooks_set_on_the_head_is_kept():
    model = tiny_model("llama")
    own = model.lm_head.forward
    calls = []
    model.lm_head.forward = lambda states: (calls.append(1), own(states))[1]
    hooked = model.lm_head.forward
    captured(Head.of(model), model, tiny_inputs(model), skip=False)
    assert model.lm_head.forward is hooked
    assert calls == [1]


def test_a_model_that_ran_without_its_head_is_an_error():
    model = tiny_model("llama")
    with pytest.raises(RuntimeError, match="without calling its output embeddings"), Head.of(model).deferred(skip=True):
        model.model(**tiny_inputs(model))


def test_finding_a_head_draws_no_random_numbers_and_touches_nothing():
    model = tiny_model("llama").train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    config = copy.deepcopy(model.config.to_dict())
    state = torch.get_rng_state()
    Head.of(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.config.to_dict() == config
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.get_default_dtype() == torch.float32


def test_compiled_models_see_the_head_come_and_go():
    model = tiny_model("llama")
    inputs = tiny_inputs(model)
    head = Head.of(model)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        expected = model(**inputs).logits
        assert torch.equal(compiled(**inputs).logits, expected)
    for skip in (True, False, True):
        states, outputs = captured(head, compiled, inputs, skip=skip)
        assert torch.equal(head.project(states), expected)
        assert outputs.logits.numel() == (0 if skip else expected.numel())
    with torch.no_grad():
        assert torch.equal(compiled(**inputs).logits, expected)


def test_gradients_reach_the_body_through_captured_states_and_checkpointed_layers():
    model = tiny_model("llama", tie_word_embeddings=False).train()
    inputs = tiny_inputs(model)
    model(**inputs).logits.square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # the name changed in transformers 5.2x; both are there
        model.gradient_checkpointing_enable({"use_reentrant": False})
    head = Head.of(model)
    with head.deferred(skip=True) as caught:
        model(**inputs)
    head.project(caught.states).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


@pytest.mark.parametrize(
    "options",
    [{"target_modules": ["lm_head", "q_proj"]}, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}],
    ids=["lora on the head", "head saved whole"],
)
@peft_warns
def test_a_head_that_peft_wraps_runs_with_its_adapter(options):
    model = peft.get_peft_model(tiny_model("gemma2"), peft.LoraConfig(r=2, init_lora_weights=False, **options))
    model.eval()
    inputs = tiny_inputs(model.get_base_model())
    head = Head.of(model)
    assert head.weight is None
    assert head.vocab_size == 64
    assert any(parameter.requires_grad for parameter in head.parameters())
    with torch.no_grad():
        expected = model(**inputs).logits
    states, _ = captured(head, model, inputs)
    with torch.no_grad():
        assert torch.equal(head.project(states), expected)


@peft_warns
def test_a_head_beside_adapters_stays_plain():
    model = peft.get_peft_model(tiny_model("llama"), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    head = Head.of(model)
    assert head.weight is model.get_base_model().lm_head.weight


def test_resized_heads_keep_their_tail():
    model = tiny_model("bart")
    model.resize_token_embeddings(80, mean_resizing=False)
    model.final_logits_bias.normal_()
    inputs = tiny_inputs(model)
    with torch.no_grad():
        expected = model(**inputs).logits
    head = Head.of(model)
    assert head.vocab_size == 80
    states, _ = captured(head, model, inputs)
    with torch.no_grad():
        assert torch.equal(head.project(states), expected)


def test_kept_positions_do_not_confuse_the_record():
    model = tiny_model("gemma2")
    inputs = tiny_inputs(model)
    head = Head.of(model)
    with torch.no_grad():
        expected = model(**inputs).logits[:, -2:]
    states, _ = captured(head, model, {**inputs, "logits_to_keep": 2})
    with torch.no_grad():
        assert torch.equal(head.project(states), expected)


def in_place(self, logits, input_ids):
    logits /= 2.0
    logits.mul_(3.0).add_(1.0)
    return logits.float()


def with_own_tensors(self, logits, input_ids):
    return torch.clamp(logits * self.gain, max=5.0).to(logits.device)


@pytest.mark.parametrize(("change", "reads"), [(in_place, False), (with_own_tensors, True)])
def test_what_the_forward_pass_writes_or_multiplies_in_is_replayed(change, reads):
    model = changed(change)
    inputs = {"input_ids": tiny_inputs(model)["input_ids"]}
    with torch.no_grad():
        expected = model(**inputs).logits
    head = Head.of(model)
    states, _ = captured(head, model, inputs)
    with torch.no_grad():
        logits = head.module(states)
        before = logits.clone()
        assert torch.equal(head.finish(logits), expected)
    assert torch.equal(logits, before)
    assert any(parameter is model.gain for parameter in head.parameters()) == reads


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda self, logits, ids: logits.cumsum(1), "mixes the logits of different positions"),
        (lambda self, logits, ids: logits - logits.mean(-1, keepdim=True), "mixes them with a tensor"),
        (lambda self, logits, ids: logits[..., :-1], "elementwise operations"),
        (lambda self, logits, ids: self.lm_head(self.lm_head.weight[ids]), "ran 2 times"),
        (lambda self, logits, ids: self.model.embed_tokens(ids) @ self.lm_head.weight.T, "elementwise operations"),
        (lambda self, logits, ids: no_such_name, "could not be run on the meta device"),  # noqa: F821
    ],
)
def test_logits_that_rows_cannot_give_are_refused_with_the_reason(change, reason):
    with pytest.raises(UnsupportedHead, match=reason):
        Head.of(changed(change))


def test_overwritten_logits_are_refused():
    def mask(self, logits, input_ids):
        logits[..., 0] = -1.0
        return logits

    with pytest.raises(UnsupportedHead, match="overwritten"):
        Head.of(changed(mask))
