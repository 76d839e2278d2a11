"""`hf-distill merge`: checkpoints in, a checkpoint out, a tensor at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hf_distill_weightmaps.merge_command import Merge, merge, merge_checkpoints
from hf_distill_weightmaps.merging import combine, dare, generator_for, magnitude_threshold
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from hf_distill import Plugins
from hf_distill.testing import tiny_model, tiny_tokenizer


@pytest.fixture
def models(tmp_path):
    """A base and two models of its shape, saved in several files."""
    paths = {}
    for seed, name in enumerate(("base", "first", "second")):
        paths[name] = str(tmp_path / name)
        tiny_model("llama", seed=seed).save_pretrained(paths[name], max_shard_size="20KB")
    tiny_tokenizer().save_pretrained(paths["base"])
    return paths


def spec(paths, tmp_path, **options):
    values = {"base": paths["base"], "models": [paths["first"], paths["second"]], "output_dir": str(tmp_path / "out")}
    return Merge.parse({**values, **options})


def state(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


@pytest.mark.parametrize("method", ["task_arithmetic", "average", "ties"])
def test_the_folder_holds_the_merged_model(method, models, tmp_path):
    chosen = [{"model": models["first"], "weight": 0.5}, models["second"]]
    options = {"method": method, "scale": 0.7, "drop_rate": 0.3, "density": 0.4, "shard_gigabytes": 2e-5}
    folder = merge_checkpoints(spec(models, tmp_path, models=chosen, **options))
    assert (folder / "model.safetensors.index.json").exists()
    base, tuned, found = state(models["base"]), [state(models["first"]), state(models["second"])], state(folder)
    deltas = {
        name: [
            weight * dare(one[name] - base[name], 0.3, generator=generator_for(0, k, name))
            for k, (weight, one) in enumerate(zip((0.5, 1.0), tuned, strict=True))
        ]
        for name in base
    }
    thresholds = torch.tensor(
        [magnitude_threshold(lambda k=k: (one[k] for one in deltas.values()), 0.4) for k in range(2)]
    )
    for name, tensor in found.items():
        expected = combine(base[name], deltas[name], method=method, scale=0.7, thresholds=thresholds)
        assert torch.equal(tensor, expected), name
    assert json.loads((folder / "merge.json").read_text())["method"] == method
    assert (folder / "tokenizer.json").exists()


def test_heads_that_are_not_merged_are_the_bases(tmp_path):
    for seed, (name, labels) in enumerate([("base", 3), ("first", 5)]):
        tiny_model("bert_classifier", seed=seed, num_labels=labels).save_pretrained(tmp_path / name)
    values = {"base": str(tmp_path / "base"), "models": [str(tmp_path / "first")], "output_dir": str(tmp_path / "out")}
    with pytest.raises(ValueError, match=r"classifier\.\w+ is \(5.* and \(3.*; name it in exclude"):
        merge_checkpoints(Merge.parse(values))
    folder = merge_checkpoints(Merge.parse({**values, "exclude": ["classifier.*"]}))
    base, first, found = (
        AutoModelForSequenceClassification.from_pretrained(path).state_dict()
        for path in (tmp_path / "base", tmp_path / "first", folder)
    )
    assert torch.equal(found["classifier.weight"], base["classifier.weight"])
    torch.testing.assert_close(found["bert.pooler.dense.weight"], first["bert.pooler.dense.weight"])


def test_the_dtype_is_the_bases(models, tmp_path):
    tiny_model("llama").to(torch.bfloat16).save_pretrained(tmp_path / "half")
    folder = merge_checkpoints(spec(models, tmp_path, base=str(tmp_path / "half")))
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


def test_the_command_line_merges(models, tmp_path, capsys):
    config = tmp_path / "merge.yaml"
    config.write_text(f"base: {models['base']}\nmodels: [{models['first']}]\noutput_dir: {tmp_path / 'out'}\n")
    assert merge([str(config)]) == 0
    assert "saved the merged model in" in capsys.readouterr().out
    for name, tensor in state(tmp_path / "out").items():
        torch.testing.assert_close(tensor, state(models["first"])[name])
    with pytest.raises(ValueError, match="is not empty"):
        merge([str(config)])
    assert merge([str(config), "--output-dir", str(tmp_path / "other")]) == 0
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        merge([str(tmp_path / "none.yaml")])


def test_the_command_is_registered():
    assert "merge" in {component.name for component in Plugins(["weightmaps"]).commands}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "ties"}, "no field 'methods'; there are base, models"),
        ({"method": "slerp"}, "method is 'slerp'; expected task_arithmetic, average, ties"),
        ({"models": []}, "models is empty"),
        ({"drop_rate": 1.0}, "drop_rate is 1.0; expected a share from 0 to below 1"),
        ({"density": 0}, "density is 0; expected a share above 0"),
        ({"models": [{"path": "x"}]}, "expected {model: path, weight: number}"),
        ({"exclude": ["lm_heat.*"]}, "exclude names 'lm_heat.*', which no tensor matches"),
    ],
)
def test_a_mistake_is_refused_and_writes_nothing(options, message, models, tmp_path):
    with pytest.raises(ValueError, match=message.replace("*", r"\*").replace(".", r"\.")):
        merge_checkpoints(spec(models, tmp_path, **options))
    assert not (tmp_path / "out").exists()


def test_models_of_another_base_missing_models_and_a_missing_base_are_refused(models, tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path / "gpt2")
    with pytest.raises(ValueError, match="is not of the base"):
        merge_checkpoints(spec(models, tmp_path, models=[str(tmp_path / "gpt2")]))
    with pytest.raises(ValueError, match=r"no model\.safetensors"):
        merge_checkpoints(spec(models, tmp_path, models=[str(tmp_path)]))
    with pytest.raises(ValueError, match="has no base"):
        Merge.parse({"models": ["x"], "output_dir": "y"})


MEASURED = """
import json, re, sys
from pathlib import Path
from transformers import AutoModelForCausalLM
from hf_distill_weightmaps.merge_command import Merge, merge, merge_checkpoints

def peak():  # of this program alone; getrusage would count its parent before exec
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def merge(folder):
    models = [f"{folder}/first", f"{folder}/second"]
    options = {"method": "ties", "drop_rate": 0.5, "shard_gigabytes": 0.005}
    merge_checkpoints(Merge(base=f"{folder}/base", models=models, output_dir=f"{folder}/out", **options))

merge(f"{sys.argv[1]}/tiny")  # what is imported on the way
before = peak()
merge(f"{sys.argv[1]}/big")
print(json.dumps(peak() - before))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
def test_merging_never_holds_a_whole_model_in_memory(tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    for folder, model in (("tiny", tiny_model("llama")), ("big", tiny_model("llama", **sizes))):
        for name in ("base", "first", "second"):
            for index, parameter in enumerate(model.parameters()):
                parameter.data.add_(0.01 * index)
            model.save_pretrained(tmp_path / folder / name)
    megabytes = (tmp_path / "big/base/model.safetensors").stat().st_size / 2**20
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    # Three checkpoints go in and one comes out; the largest tensor has 4 MB.
    assert json.loads(done.stdout) < 0.9 * megabytes
