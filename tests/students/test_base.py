"""`build_student`: what every builder's result is checked for, and what it leaves behind."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, BertForMaskedLM, LlamaForCausalLM

import hf_distill
from hf_distill.plugins.manager import Plugins
from hf_distill.students import Source, StudentBuild, build_student, load_student, open_weights
from hf_distill.testing import tiny_inputs, tiny_model


def averaged_embeddings(teacher, *, forget: str = ""):
    """A builder that combines tensors: one block, the mean of all the teacher's."""
    student = tiny_model("llama", num_hidden_layers=1)
    available = teacher.state_dict()
    sources = {
        name: [name.replace("layers.0", f"layers.{index}") for index in range(2)] if "layers.0" in name else [name]
        for name in student.state_dict()
    }
    student.load_state_dict(
        {name: torch.stack([available[one] for one in group]).mean(0) for name, group in sources.items()}
    )
    mapping = {name: Source("mean", tuple(group)) for name, group in sources.items() if name != forget}
    return StudentBuild(student, mapping, [None])


class Averaging:
    @hf_distill.hookimpl
    def register_students(self, register):
        register("averaged", averaged_embeddings)


def test_the_note_in_the_configuration_survives_saving(tmp_path):
    build = build_student(tiny_model("llama", num_hidden_layers=4), layers=[0, 3])
    build.model.save_pretrained(tmp_path)
    note = AutoModelForCausalLM.from_pretrained(tmp_path).config.hf_distill
    assert note == {"builder": "layer_drop", "options": {"layers": [0, 3]}, "layer_map": [0, 3]}


def test_a_plugin_builds_with_operators_and_the_record_names_it():
    teacher = tiny_model("llama")
    build = build_student(teacher, "averaged", plugins=Plugins([Averaging()]))
    assert build.mapping["model.layers.0.mlp.up_proj.weight"].tensors == (
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.1.mlp.up_proj.weight",
    )
    record = json.loads(json.dumps(build.record))
    assert "Averaging" in record["package"]
    assert record["num_parameters"] == {
        "teacher": sum(parameter.numel() for parameter in teacher.parameters()),
        "student": sum(parameter.numel() for parameter in build.model.parameters()),
    }


def test_a_tensor_that_a_builder_forgot_is_not_passed_over():
    with pytest.raises(
        ValueError, match=r"'averaged_embeddings'.*missing: \['model.norm.weight'\], of no tensor: \[\]"
    ):
        build_student(tiny_model("llama"), averaged_embeddings, forget="model.norm.weight")


def test_a_teacher_given_by_name_is_loaded_as_its_checkpoint_says(tmp_path):
    teacher = tiny_model("bert_classifier")
    teacher.to(torch.bfloat16).save_pretrained(tmp_path)
    build = build_student(tmp_path, layers=2)
    assert type(build.model) is type(teacher)
    assert build.model.dtype == torch.bfloat16
    inputs = tiny_inputs(teacher)
    assert torch.equal(build.model(**inputs).logits, teacher(**inputs).logits)
    assert build.record["teacher"]["name"] == str(tmp_path)
    headed = build_student(tmp_path, layers=1, model_class=BertForMaskedLM, dtype="float32").model
    assert isinstance(headed, BertForMaskedLM)
    assert headed.dtype == torch.float32


def test_teachers_of_other_shapes_have_other_digests():
    digests = {
        build_student(tiny_model("llama", seed=seed, num_hidden_layers=layers), layers=1).record["teacher"][
            "config_sha256"
        ]
        for seed, layers in [(0, 2), (1, 2), (0, 3)]
    }
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("builder", "options", "message"),
    [
        ("layer_dorp", {}, "did you mean 'layer_drop'"),
        ("layer_drop", {"layer": 2}, "did you mean 'layers'"),
        ("layer_drop", {"layers": torch.tensor(2)}, "JSON cannot hold"),
    ],
)
def test_wrong_names_and_options_are_errors_that_help(builder, options, message):
    with pytest.raises(ValueError, match=message):
        build_student(tiny_model("llama"), builder, **options)


def test_a_checkpoint_of_an_unknown_class_asks_for_one(tmp_path):
    teacher = tiny_model("llama")
    teacher.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["LlamaForPoetry"]}))
    with pytest.raises(ValueError, match="of class 'LlamaForPoetry', which transformers lacks; pass model_class"):
        build_student(tmp_path)
    assert build_student(tmp_path, model_class=LlamaForCausalLM, layers=2).layer_map == [0, 1]


def test_a_teacher_that_is_no_model_of_transformers_is_an_error_that_says_so():
    with pytest.raises(ValueError, match=r"The teacher is a Linear; expected a model of transformers"):
        build_student(torch.nn.Linear(2, 2), layers=1)


@pytest.mark.parametrize("use", [build_student, load_student, open_weights])
def test_a_path_that_leads_nowhere_is_not_taken_for_a_name_on_the_hub(use, tmp_path):
    for path in (tmp_path / "typo", str(tmp_path / "typo"), "./typo", "a/b/c"):
        with pytest.raises(ValueError, match=r"There is no folder '.*'; expected one with a saved model"):
            use(path)
