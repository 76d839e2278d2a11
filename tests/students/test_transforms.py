"""`transform` and `load_student`: a changed model comes back from its folder as it was saved."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import hf_distill
from hf_distill.blocks import blocks
from hf_distill.plugins import Plugins
from hf_distill.students import Source, StudentBuild, build_student, load_student, transform
from hf_distill.testing import tiny_inputs, tiny_model


def low_rank(model, *, rank: int, which: str = "down_proj"):
    """Replace the linear layers called `which` by two thin ones each."""
    for module in list(model.modules()):
        if isinstance(linear := getattr(module, which, None), nn.Linear):
            left, values, right = torch.linalg.svd(linear.weight.detach(), full_matrices=False)
            thin = nn.Sequential(
                nn.Linear(linear.in_features, rank, bias=False), nn.Linear(rank, linear.out_features, bias=False)
            )
            thin[0].weight = nn.Parameter(right[:rank].contiguous())  # as a file has it: bits depend on it
            thin[1].weight = nn.Parameter((left[:, :rank] * values[:rank]).contiguous())
            setattr(module, which, thin)


class Gate(nn.Module):
    """Scales features by constants that no checkpoint holds."""

    def __init__(self, inner, width):
        super().__init__()
        self.inner = inner
        self.register_buffer("scale", 0.5 + torch.arange(width) / (3 * width), persistent=False)

    def forward(self, hidden):
        return self.inner(hidden) * self.scale.to(hidden.dtype)


def gate(model):
    for block in blocks(model):
        block.mlp = Gate(block.mlp, model.config.hidden_size)


def low_rank_head(model, *, rank: int):
    model.config.tie_word_embeddings = False
    low_rank(model, rank=rank, which="lm_head")


def gate_by_weights(model):
    for block in blocks(model):
        block.mlp = Gate(block.mlp, model.config.hidden_size)
        block.mlp.register_buffer("scale", block.mlp.inner.down_proj.weight.abs().mean(1).detach(), persistent=False)


class Toys:
    @hf_distill.hookimpl
    def register_students(self, register):
        for target in (low_rank, gate, low_rank_head, gate_by_weights):
            register(target.__name__, target, kind="transform")


@pytest.fixture
def plugins():
    return Plugins([Toys()])


def logits(model):
    with torch.no_grad():
        return model(**tiny_inputs(model)).logits


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_a_transformed_student_gives_the_same_logits_after_loading(family, max_shard_size, plugins, tmp_path):
    student = build_student(tiny_model(family, num_hidden_layers=4), layers=2).model
    plain = logits(student)
    transform(student, "low_rank", plugins=plugins, rank=3)
    transform(student, "gate", plugins=plugins)
    student.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "20KB")
    loaded = load_student(tmp_path, plugins=plugins)
    assert type(loaded) is type(student)
    assert not loaded.training
    assert not torch.equal(logits(student), plain)
    assert torch.equal(logits(loaded), logits(student))
    assert loaded.config.hf_distill["layer_map"] == [0, 3]
    assert [spec["name"] for spec in loaded.config.hf_distill["transforms"]] == ["low_rank", "gate"]
    # Once more, from what was loaded: nothing may depend on how the model came into being.
    loaded.save_pretrained(tmp_path / "again")
    assert torch.equal(logits(load_student(tmp_path / "again", plugins=plugins)), logits(student))


def test_a_checkpoint_in_an_older_layout_is_converted_on_the_way(plugins, tmp_path):
    student = tiny_model("mixtral")
    transform(student, "low_rank", plugins=plugins, rank=3, which="o_proj")
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(load_student(tmp_path, plugins=plugins)), logits(student))


def test_a_tied_head_can_be_replaced(plugins, tmp_path):
    student = tiny_model("gpt2")
    transform(student, "low_rank_head", plugins=plugins, rank=5)
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(load_student(tmp_path, plugins=plugins)), logits(student))


def test_a_tied_head_that_was_left_alone_stays_tied(plugins, tmp_path):
    student = tiny_model("gemma2")
    transform(student, "gate", plugins=plugins)
    student.save_pretrained(tmp_path)
    loaded = load_student(tmp_path, plugins=plugins, dtype=torch.bfloat16)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert loaded.dtype == torch.bfloat16


def test_constants_of_a_half_precision_student_are_not_rounded_on_loading(plugins, tmp_path):
    student = tiny_model("llama").to(torch.bfloat16)
    transform(student, "gate", plugins=plugins)
    student.save_pretrained(tmp_path)
    loaded = load_student(tmp_path, plugins=plugins)
    assert torch.get_default_dtype() == torch.float32
    assert loaded.dtype == torch.bfloat16
    scale = loaded.model.layers[0].mlp.scale
    assert torch.equal(scale, student.model.layers[0].mlp.scale)
    assert scale.dtype == torch.float32


def test_a_builder_may_transform_what_it_builds(plugins, tmp_path):
    def gated(teacher):
        build = build_student(teacher, layers=1)
        transform(build.model, "low_rank", plugins=plugins, rank=3)
        return StudentBuild(build.model, {name: Source("svd") for name in build.model.state_dict()}, build.layer_map)

    student = build_student(tiny_model("llama"), gated).model
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(load_student(tmp_path, plugins=plugins)), logits(student))


def test_from_pretrained_alone_misses_the_transforms_and_says_so(plugins, tmp_path):
    student = tiny_model("llama")
    transform(student, "low_rank", plugins=plugins, rank=3)
    student.save_pretrained(tmp_path)
    _, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert any("down_proj" in name for name in report["missing_keys"])
    assert any("down_proj" in name for name in report["unexpected_keys"])


def test_an_inactive_plugin_is_named(plugins, tmp_path):
    student = tiny_model("llama")
    transform(student, "low_rank", plugins=plugins, rank=3)
    student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"transform 'low_rank' of .*Toys.*activate it"):
        load_student(tmp_path)


def test_weights_that_do_not_fit_the_transforms_are_an_error(plugins, tmp_path):
    student = tiny_model("llama")
    student.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    spec = {"name": "low_rank", "options": {"rank": 3}, "package": "toys"}
    (tmp_path / "config.json").write_text(json.dumps(config | {"hf_distill": {"transforms": [spec]}}))
    with pytest.raises(ValueError, match=r"missing: \['model.layers.0.mlp.down_proj.0.weight'.*without a place"):
        load_student(tmp_path, plugins=plugins)


def test_a_buffer_made_from_weights_but_not_saved_is_an_error_rather_than_garbage(plugins, tmp_path):
    student = tiny_model("llama")
    transform(student, "gate_by_weights", plugins=plugins)
    student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"mlp\.scale' from parameters; register it as persistent"):
        load_student(tmp_path, plugins=plugins)


def test_a_failed_transform_leaves_no_note(plugins):
    student = tiny_model("llama")
    with pytest.raises(ValueError, match="needs the option 'rank'"):
        transform(student, "low_rank", plugins=plugins)
    assert not hasattr(student.config, "hf_distill")


def test_a_transformed_teacher_is_refused_by_builders_of_stock_models(plugins):
    teacher = tiny_model("llama")
    transform(teacher, "gate", plugins=plugins)
    with pytest.raises(ValueError, match="was changed by transforms"):
        build_student(teacher, layers=1)
