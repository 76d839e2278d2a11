"""`transform` and `load_student`: a changed model comes back from its folder as it was saved."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForSequenceClassification, PreTrainedModel

import hf_distill
from hf_distill.models.layers import blocks
from hf_distill.plugins.manager import Plugins
from hf_distill.students import Source, StudentBuild, build_student, load_student, transform
from hf_distill.students.transforms import NEEDS_CALL
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


TOYS = """
import hf_distill
from torch import nn

class Doubled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.doubled = inner
    def forward(self, hidden):
        return 2 * self.doubled(hidden)

def double(model):
    for block in model.base_model.layers:
        block.mlp = Doubled(block.mlp)

@hf_distill.hookimpl
def register_students(register):
    register("double", double, kind="transform")
"""
LOADING = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, LlamaForCausalLM
for model_class in (AutoModelForCausalLM, AutoModel, LlamaForCausalLM):
    try:
        model_class.from_pretrained(sys.argv[1])
    except ValueError as error:
        assert "enable_from_pretrained() before" in str(error), error
    else:
        raise AssertionError("the stock model was loaded")
import hf_distill
hf_distill.enable_from_pretrained(plugins=["toys"])
student = LlamaForCausalLM.from_pretrained(sys.argv[1])
assert "Doubled" in str(student)
assert type(student) is LlamaForCausalLM
assert torch.equal(student(torch.arange(9)[None]).logits, load_file(sys.argv[1] + "/logits")["logits"])
again = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.bfloat16)
assert again.dtype == torch.bfloat16
assert "Doubled" in str(AutoModel.from_pretrained(sys.argv[1]))
again, report = AutoModelForCausalLM.from_pretrained(sys.argv[1], output_loading_info=True, use_cache=False)
assert not report["missing_keys"]
assert not again.config.use_cache
"""


@pytest.fixture
def installed_toys(install, tmp_path, monkeypatch):
    """A plugin package among the installed ones, for this process and those that it starts."""
    install("toys", "0.1", {"toys": "toys_plugin"}, {"toys_plugin.py": TOYS})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site-toys"))


@pytest.mark.usefixtures("installed_toys")
def test_plain_transformers_refuses_a_transformed_student_and_loads_it_after_the_call(tmp_path):
    student = tiny_model("llama")
    transform(student, "double", plugins=Plugins(["toys"]))
    student.save_pretrained(tmp_path / "student")
    with torch.no_grad():
        save_file({"logits": student(torch.arange(9)[None]).logits}, tmp_path / "student" / "logits")
    done = subprocess.run([sys.executable, "-c", LOADING, str(tmp_path / "student")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("installed_toys")
def test_what_was_loaded_can_be_saved_and_loaded_again_with_the_installed_plugin(tmp_path, request):
    hf_distill.enable_from_pretrained(["toys"])
    request.addfinalizer(hf_distill.disable_from_pretrained)
    student = tiny_model("llama")
    transform(student, "double", plugins=Plugins(["toys"]))
    expected = logits(student)
    for index in range(3):
        student.save_pretrained(tmp_path / str(index))
        assert list(json.loads((tmp_path / str(index) / "config.json").read_text())["fusion_config"]) == [NEEDS_CALL]
        if index == 1:
            student = load_student(tmp_path / "1", plugins=["toys"])
        else:
            student = AutoModelForCausalLM.from_pretrained(tmp_path / str(index))
        assert torch.equal(logits(student), expected)
    config = AutoConfig.from_pretrained(tmp_path / "2")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "2", config=config)), expected)


def test_a_stock_model_is_loaded_by_stock_code(tmp_path, monkeypatch):
    model = tiny_model("llama")
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("hf_distill.students.transforms.load_transformed", None)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(model))


def test_another_head_on_a_transformed_body_is_new_and_the_body_is_whole(plugins, tmp_path):
    student = tiny_model("llama")
    transform(student, "low_rank", plugins=plugins, rank=3)
    student.save_pretrained(tmp_path)
    headed = load_student(tmp_path, plugins=plugins, model_class=LlamaForSequenceClassification, num_labels=5)
    assert headed.score.out_features == 5
    ours, theirs = headed.model.state_dict(), student.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("installed_toys")
def test_a_folder_names_a_plugin_and_nothing_of_it_is_imported(tmp_path, monkeypatch):
    student = tiny_model("llama")
    transform(student, "double", plugins=["toys"])
    student.save_pretrained(tmp_path)
    monkeypatch.delitem(sys.modules, "toys_plugin")
    hf_distill.enable_from_pretrained()
    try:
        for load in (load_student, AutoModelForCausalLM.from_pretrained):
            with pytest.raises(ValueError, match=r"transform 'double' of toys .*plugins=\['toys'\]"):
                load(tmp_path)
    finally:
        hf_distill.disable_from_pretrained()
    assert "toys_plugin" not in sys.modules


def test_from_pretrained_is_given_back(monkeypatch):
    stock = PreTrainedModel.from_pretrained.__func__
    hf_distill.enable_from_pretrained()
    hf_distill.enable_from_pretrained([])
    assert PreTrainedModel.from_pretrained.__func__.__wrapped__ is stock
    hf_distill.disable_from_pretrained()
    assert PreTrainedModel.from_pretrained.__func__ is stock
    hf_distill.disable_from_pretrained()
    assert PreTrainedModel.from_pretrained.__func__ is stock


def test_an_inactive_plugin_is_named(plugins, tmp_path):
    student = tiny_model("llama")
    transform(student, "low_rank", plugins=plugins, rank=3)
    student.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"transform 'low_rank' of .*Toys.*Name the plugin"):
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
