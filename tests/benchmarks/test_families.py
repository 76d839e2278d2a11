"""`benchmarks/families.py`: some families in full, what its verdicts mean, and that the committed matrix is whole."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
import torch

from hf_distill import Plugins, open_weights

ROOT = Path(__file__).parents[2]
# Of every kind of rows, stack and block; the rest of the matrix takes minutes.
FAST = ["DeBERTaV2", "ModernBERT", "Bamba", "Qwen2-MoE", "T5Gemma", "EncoderDecoder", "HuBERT", "LLaVA (Bamba text)"]


@pytest.fixture
def families(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("families")


@pytest.fixture
def committed(families):
    return json.loads(families.RESULTS.read_text())


@pytest.mark.parametrize("family", FAST)
def test_a_family_that_the_matrix_says_works_works(family, families, committed):
    result = families.cell(families.FAMILIES[family], "layer_drop", {}, Plugins())
    assert (result["outcome"], result["why"]) == ("works", "")
    assert committed["cells"][family]["layer_drop"]["outcome"] == "works"


@pytest.mark.parametrize("family", [*FAST, "DAC", "Mimi", "DeiT (two heads)", "ResNet"])
def test_what_builders_read_from_files_is_what_from_pretrained_loads(family, families, tmp_path):
    model = families.FAMILIES[family].make()
    model.save_pretrained(tmp_path)
    expected = type(model).from_pretrained(tmp_path).state_dict()
    empty, weights = open_weights(tmp_path)
    assert empty.device.type == "meta"
    assert list(empty.state_dict()) == list(expected)
    assert [name for name, value in expected.items() if not torch.equal(weights[name], value)] == []


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["layer_drop", "fresh"])
def test_the_core_builders_do_what_the_committed_matrix_says(builder, families, committed):
    options = families.BUILDERS["hf_distill"][builder]
    for family in families.FAMILIES.keys() - set(FAST):
        result = families.cell(families.FAMILIES[family], builder, options, Plugins())
        assert result["outcome"] == committed["cells"][family][builder]["outcome"], (family, result)


def test_the_committed_matrix_has_every_cell_and_none_that_fails_unexplained(families, committed):
    builders = {name for found in families.BUILDERS.values() for name in found}
    assert list(committed["cells"]) == list(families.FAMILIES)
    for family, cells in committed["cells"].items():
        assert cells.keys() == builders, family
        for builder, cell in cells.items():
            assert cell["outcome"] in ("works", "does not apply") or (family, builder) in families.KNOWN_FAILURES
            assert cell["why"] or cell["outcome"] == "works"
            assert cell["losses"] is None or cell["losses"][1] < cell["losses"][0]
    assert families.RESULTS.with_suffix(".md").read_text() == families.table(committed)


def test_a_refusal_a_broken_builder_and_a_loss_that_does_not_fall_are_told_apart(families, monkeypatch, tmp_path):
    build = families.build_student

    def run(builder, **options):
        monkeypatch.setattr(families, "build_student", builder)
        return families.cell(families.FAMILIES["Llama"], "layer_drop", options, Plugins())

    refused = run(build, layers=9)
    assert (refused["outcome"], refused["losses"]) == ("does not apply", None)
    assert "1 to 4 can stay" in refused["why"]
    broken = run(lambda *_, **__: {}["nothing"])
    assert (broken["outcome"], broken["why"]) == ("fails", "KeyError: 'nothing'")

    def best(teacher, builder, **options):
        return build(teacher, layers=4)  # the teacher itself, which cannot become nearer to it

    perfect = run(best)
    assert perfect["outcome"] == "fails"
    assert "did not fall: 0.0000" in perfect["why"]


def test_one_failing_cell_is_the_exit_status_and_the_other_families_stay(families, monkeypatch, tmp_path):
    path = tmp_path / "families.json"
    ours = {"outcome": "works", "why": "", "losses": [2.0, 1.0], "seconds": 1.0}
    path.write_text(json.dumps({"cells": {"BERT": {"fresh": ours}}}))
    failing = {"outcome": "fails", "why": "KeyError: 'x'", "losses": None, "seconds": 0.1}
    monkeypatch.setattr(families, "cell", lambda *_: failing)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # nor anything else that outlives this test
    for setting in ("set_verbosity_error", "disable_progress_bar"):
        monkeypatch.setattr(families.transformers.logging, setting, lambda: None)
    command = ["--json", str(path), "--only", "OPT", "--builders", "fresh"]
    assert families.main(command) == 0
    assert families.main([*command, "--check"]) == 1
    assert json.loads(path.read_text())["cells"] == {"BERT": {"fresh": ours}, "OPT": {"fresh": failing}}
    assert "| OPT | OPTForCausalLM | fails* |" in path.with_suffix(".md").read_text()
    monkeypatch.setitem(families.KNOWN_FAILURES, ("OPT", "fresh"), "a reason")
    assert families.main([*command, "--check"]) == 0
    with pytest.raises(SystemExit):
        families.main(["--only", "BRET"])
