"""Teachers read tensor by tensor: what is read is what `from_pretrained` would have loaded, without loading it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    GenerationConfig,
    PreTrainedModel,
)

from hf_distill.students import Blueprint, Source, build_student, shape_only, skeleton
from hf_distill.students.weights import CheckpointWeights, checkpoint_files
from hf_distill.testing import tiny_inputs, tiny_model, tiny_tokenizer

FAMILIES = ["llama", "gpt2", "gemma2", "mixtral", "bert_mlm", "bert_classifier", "t5", "bart", "vit"]


@pytest.fixture
def nothing_is_loaded_whole(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the whole teacher was loaded")

    return lambda: monkeypatch.setattr(PreTrainedModel, "from_pretrained", refuse)


@pytest.mark.parametrize("max_shard_size", ["5GB", "20KB"])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_read_from_files_is_what_from_pretrained_loads(family, max_shard_size, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    expected = type(model).from_pretrained(tmp_path).state_dict()
    weights = CheckpointWeights(checkpoint_files(tmp_path), skeleton(model, model.config))
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name
    assert "of.nobody" not in weights


@pytest.mark.parametrize(("saved", "read"), [(BertModel, BertForMaskedLM), (BertForMaskedLM, BertModel)])
def test_a_checkpoint_of_another_head_is_read_under_the_names_of_this_one(saved, read, tmp_path):
    source = saved(tiny_model("bert_mlm").config)
    source.save_pretrained(tmp_path)
    model, report = read.from_pretrained(tmp_path, output_loading_info=True)
    weights = CheckpointWeights(checkpoint_files(tmp_path), skeleton(model, model.config))
    expected = model.state_dict()
    read_names = {name for name in expected if name in weights}
    assert read_names == expected.keys() - report["missing_keys"]
    assert all(torch.equal(weights[name], expected[name]) for name in read_names)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_student_of_files_is_the_student_of_the_model(family, tmp_path, nothing_is_loaded_whole):
    teacher = tiny_model(family, num_hidden_layers=4)
    teacher.save_pretrained(tmp_path)
    expected = build_student(teacher, layers=2)
    nothing_is_loaded_whole()
    build = build_student(tmp_path, layers=2)
    assert build.mapping == expected.mapping
    assert {k: v for k, v in build.record.items() if k != "teacher"} == {
        k: v for k, v in expected.record.items() if k != "teacher"
    }
    inputs = tiny_inputs(teacher)
    assert torch.equal(build.model(**inputs).logits, expected.model(**inputs).logits)


def test_a_head_that_the_checkpoint_lacks_stays_random_and_the_mapping_says_so(tmp_path):
    tiny_model("bert_mlm").save_pretrained(tmp_path)
    build = build_student(tmp_path, layers=1, model_class=BertForSequenceClassification)
    assert build.mapping["classifier.weight"] == Source("random")
    assert build.mapping["bert.embeddings.word_embeddings.weight"].operator == "copy"
    assert build.model.classifier.weight.std() > 0


@shape_only
def averaged(teacher, *, wide: bool = False):
    """One block, the mean of all, with another vocabulary's worth of zeros where it was asked for."""
    config = type(teacher.config).from_dict(teacher.config.to_dict() | {"num_hidden_layers": 1})
    depth = teacher.config.num_hidden_layers

    def mean(*tensors):
        assert all(tensor.dtype == torch.float32 for tensor in tensors)
        return torch.stack(tensors).mean(0) if not wide else torch.cat(tensors)

    def source(name):
        if "layers.0." not in name:
            return Source("copy", (name,))
        group = tuple(name.replace("layers.0", f"layers.{index}") for index in range(depth))
        return Source("mean", group, function=mean)

    return Blueprint(config, {name: source(name) for name in skeleton(teacher, config).state_dict()}, [None])


def test_combinations_are_computed_in_float32_and_stored_in_the_dtype_of_the_student(tmp_path):
    teacher = tiny_model("llama").to(torch.bfloat16)
    teacher.save_pretrained(tmp_path)
    build = build_student(tmp_path, averaged)
    found = build.model.model.layers[0].mlp.up_proj.weight
    parts = torch.stack([block.mlp.up_proj.weight.float() for block in teacher.model.layers])
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, parts.mean(0).to(torch.bfloat16))
    assert build_student(tmp_path, averaged, dtype="float32").model.dtype == torch.float32


def test_a_combination_of_a_wrong_shape_is_named():
    with pytest.raises(ValueError, match=r"'averaged' makes model\.layers\.0\..* by 'mean' from .*; the student's is"):
        build_student(tiny_model("llama"), averaged, wide=True)


MEASURED = """
import json, re, sys
from pathlib import Path
from transformers import AutoModelForCausalLM
from hf_distill import build_student

def peak():  # of this program alone; getrusage would count its parent before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = peak()
student = build_student(sys.argv[1], layers=1).model
built = peak()
used = sum(float(one.detach().sum()) for one in AutoModelForCausalLM.from_pretrained(sys.argv[1]).parameters())
print(json.dumps({"building": built - before, "using": peak() - built, "student": student.num_parameters() / 2**18}))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_a_teacher_on_disk_is_never_whole_in_memory(tmp_path):
    teacher = tiny_model("llama", hidden_size=512, intermediate_size=2048, num_hidden_layers=16)
    teacher_mb = teacher.num_parameters() / 2**18
    teacher.save_pretrained(tmp_path)
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], capture_output=True, text=True, check=True)
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown["student"] < teacher_mb / 12
    # Beside the student: the largest tensor, and the code that runs for the first time.
    assert grown["building"] < grown["student"] + 60 < teacher_mb / 2
    assert grown["using"] > teacher_mb / 2, "the measure sees a teacher that is used"


@shape_only
def renamed(teacher):
    """Other ids for the same tokens."""
    mapping = {name: Source("copy", (name,)) for name in teacher.state_dict()}
    generation = GenerationConfig(eos_token_id=5)
    return Blueprint(teacher.config, mapping, tokenizer=tiny_tokenizer(), generation_config=generation)


def test_a_student_takes_the_tokenizer_and_generation_defaults_of_its_blueprint():
    build = build_student(tiny_model("llama"), renamed)
    assert build.model.generation_config.eos_token_id == 5
    assert build.tokenizer is not None
    assert build_student(tiny_model("llama")).tokenizer is None


@shape_only
def crowded(teacher):
    """Heads that the family does not allow."""
    config = type(teacher.config).from_dict(teacher.config.to_dict())
    config.num_attention_heads = 5
    return Blueprint(config, {name: Source("copy", (name,)) for name in skeleton(teacher, config).state_dict()})


def test_a_configuration_that_the_family_refuses_is_an_error_that_says_why():
    with pytest.raises(ValueError, match=r"LlamaConfig refuses the student's configuration: .*not a multiple of"):
        build_student(tiny_model("llama"), crowded)
