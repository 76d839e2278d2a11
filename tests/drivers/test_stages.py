from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill import Blueprint, Source, hookimpl, load_student, open_weights, shape_only
from hf_distill.drivers.stage_stop import StopRule
from hf_distill.plugins.manager import Plugins
from hf_distill.testing import tiny_model

from .stage_script import Surgeon, data, make_driver, stages

SCRIPT = Path(__file__).with_name("stage_script.py")
LAST = {"name": "last", "losses": ["task"], "data": data(0)}


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An uninterrupted run of all stages."""
    folder = tmp_path_factory.mktemp("stages") / "run"
    return folder, make_driver(folder).run()


@pytest.mark.slow
def test_a_killed_run_comes_to_the_same_students_and_repeats_no_finished_stage(finished, tmp_path):
    folder, result = finished
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(tmp_path / "run"), "killed"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    for record in result.records:
        found = next((tmp_path / "run/stages").glob(f"*-{record.name}"))
        assert json.loads((found / "model/record.json").read_text())["metrics"] == pytest.approx(record.metrics)
        own, theirs = (weights(path / "model") for path in (found, folder / "stages" / found.name))
        assert all(torch.equal(own[name], theirs[name]) for name in theirs)
    # Killed at general:ended, so a repetition would have trained it a second time and left its checkpoints.
    assert not list((tmp_path / "run").rglob("checkpoint-*"))


def test_a_finished_stage_is_not_trained_again(finished, monkeypatch):
    folder, result = finished
    driver = make_driver(folder)
    monkeypatch.setattr(driver, "_train", None)
    assert driver.run().records == result.records


def test_a_stage_goes_on_from_the_last_student_with_its_projections_and_frozen_parts_as_they_were(finished):
    folder, result = finished
    before, after = (weights(folder / "stages" / name / "model") for name in ("00-general", "01-task"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(("model.layers.1.", "lm_head.")) for name in changed)
    assert result.records[1].carried_over == ["hidden_mse"]
    assert not any(name.startswith("distillation_losses") for name in before)
    assert not list(folder.rglob("*.bin")), "pickled files"


def test_projections_go_on_in_the_next_stage_and_those_of_another_shape_are_refused(tmp_path):
    general, task, _ = stages()
    task = {**task, "losses": ["hidden_mse"], "learning_rate": 0.0}  # nothing moves
    result = make_driver(tmp_path / "run", specs=[general, task]).run()
    kept = [load_file(tmp_path / "run/stages" / name / "model/distillation_losses.safetensors") for name in
            ("00-general", "01-task")]  # fmt: skip
    assert kept[0].keys() == kept[1].keys() != set()
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[0])
    general_end, task_end = (record.metrics["eval_loss"] for record in result.records)
    assert task_end != general_end  # other evaluation data
    other = {**task, "name": "other", "teacher": tiny_model("llama", hidden_size=40)}
    with pytest.raises(ValueError, match=r"'hidden_mse' of the stage 'other' has other parameters.*another label"):
        make_driver(tmp_path / "other", specs=[general, other]).run()


def test_a_generation_starts_from_the_initial_student(finished):
    folder, _ = finished
    start = weights(folder / "stages/02-again/start")
    initial = tiny_model("llama").state_dict()
    assert all(torch.equal(initial[name], value) for name, value in start.items())
    assert json.loads((folder / "stages/02-again/stage.json").read_text())["teacher"] == {"stage": "previous"}


def test_a_folder_with_another_run_is_refused(finished):
    folder, _ = finished
    with pytest.raises(ValueError, match=r"'general' .* has begun with other values of learning_rate"):
        make_driver(folder, defaults={"learning_rate": 1e-3}).run()


def test_a_grown_student_begins_with_the_weights_of_the_stage_before(finished):
    folder, result = finished
    before, start = weights(folder / "stages/02-again/model"), weights(folder / "stages/03-grown/start")
    for block in range(4):
        name = f"model.layers.{block}.mlp.up_proj.weight"
        assert torch.equal(start[name], before[f"model.layers.{block // 2}.mlp.up_proj.weight"])
    grown, changed = result.records[-2:]
    assert grown.carried_over == [], "projections of a student of another shape"
    trained = {name for name, value in weights(folder / "stages/04-changed/model").items()
               if not torch.equal(value, weights(folder / "stages/04-changed/start")[name])}  # fmt: skip
    assert {name.split(".")[-1] for name in trained if "layers.0." not in name} == {"gain"}
    assert changed.num_trainable < grown.num_trainable


def test_a_transform_is_kept_on_the_way_to_the_next_stage_and_teacher(tmp_path):
    specs = [
        {**LAST, "name": "gained", "transform": {"name": "gain", "factor": 3.0}, "trainable": "*gain"},
        {**LAST, "name": "after", "teacher": {"stage": "gained"}, "losses": ["forward_kl"], "trainable": ["*gain"]},
    ]
    with pytest.raises(ValueError, match="there is no student transform 'gain'"):
        make_driver(tmp_path / "run", specs=specs, plugins=[])
    result = make_driver(tmp_path / "run", specs=specs).run()
    model = load_student(result.folder, plugins=Plugins([Surgeon()]))
    assert 2.8 < model.model.norm.gain.item() < 3.2
    assert model.model.norm.gain.item() != 3.0
    assert result.records[1].num_trainable == 1


def test_a_student_keeps_its_encoder_when_a_stage_asks_for_another_class(tmp_path):
    mlm, classifier = tiny_model("bert_mlm"), "BertForSequenceClassification"
    rows = data(0).train.map(lambda row: {"labels": row["input_ids"][0] % 2}).remove_columns("attention_mask")
    specs = [{"name": "one", "model_class": {"name": classifier, "num_labels": 2}, "data": rows, "max_steps": 1}]
    specs[0]["per_device_train_batch_size"] = 1
    with pytest.raises(ValueError, match="is for a student that was saved"):
        make_driver(tmp_path / "run", specs=specs, student=mlm).run()
    mlm.save_pretrained(tmp_path / "student")
    specs[0]["trainable"] = ["classifier.*"]
    result = make_driver(tmp_path / "again", specs=specs, student=str(tmp_path / "student")).run()
    model = load_student(result.folder)
    assert type(model).__name__ == classifier
    assert model.config.num_labels == 2
    encoder = {name: value for name, value in mlm.bert.state_dict().items() if "pooler" not in name}
    assert all(torch.equal(model.bert.state_dict()[name], value) for name, value in encoder.items())


def test_a_stop_rule_is_followed(tmp_path):
    stop = {"metric": "eval_task_loss", "reaches": 100.0}
    spec = {**LAST, "stop": stop, "eval_strategy": "steps", "eval_steps": 2}
    (record,) = make_driver(tmp_path / "run", specs=[spec]).run().records
    assert record.steps == 2
    assert "eval_task_loss has reached" in record.stopped
    with pytest.raises(ValueError, match="has eval_strategy no"):
        make_driver(tmp_path / "other", specs=[{**spec, "eval_strategy": "no"}]).run()
    wrong = {**spec, "stop": {**stop, "metric": "eval_tsk_loss"}}
    with pytest.raises(ValueError, match="did you mean 'eval_task_loss'"):
        make_driver(tmp_path / "wrong", specs=[wrong]).run()


def test_a_run_killed_after_its_stop_rule_spoke_takes_no_more_steps(tmp_path, monkeypatch):
    stop = {"metric": "eval_task_loss", "reaches": 100.0}
    spec = {**LAST, "stop": stop, "eval_strategy": "steps", "eval_steps": 4}
    driver = make_driver(tmp_path / "run", specs=[spec])
    monkeypatch.setattr(driver, "_save", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        driver.run()
    (record,) = make_driver(tmp_path / "run", specs=[spec]).run().records
    assert record.steps == 4


def test_patience_counts_evaluations_after_the_best():
    rule = StopRule.parse({"patience": 2}, stage="s")
    assert rule.reason([3.0, 2.0, 2.5]) is None
    assert rule.reason([3.0, 2.0, 2.5, 2.0]) == "eval_loss has not improved for 2 evaluations"
    higher = StopRule.parse({"patience": 1, "better": "higher", "reaches": 0.9}, stage="s")
    assert higher.reason([0.1, 0.5]) is None
    assert higher.reason([0.1, 0.95]) == "eval_loss has reached 0.95"
    assert higher.reason([0.5, 0.5]) == "eval_loss has not improved for 1 evaluations"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": {"stage": "genral"}}, r"'genral', which is none of the earlier ones \(did you mean 'general'"),
        ({"student": {"stage": "last"}}, "takes its student from the stage 'last'"),
        ({"lossess": []}, r"unknown field 'lossess' \(did you mean 'losses'"),
        ({"learning_rat": 1}, r"did you mean 'learning_rate'"),
        ({"output_dir": "x"}, "sets output_dir, which is said once"),
        ({"name": "general"}, "Two stages are called 'general'"),
        ({"name": "a/b"}, "expected a name of letters"),
        ({"transform": "binarize"}, "there is no student transform 'binarize'"),
        ({"stop": {"patiense": 1}}, r"no option 'patiense' \(did you mean 'patience'"),
        ({"stop": {"metric": "eval_loss"}}, "never stops"),
    ],
)
def test_a_mistake_is_found_before_any_training(change, message, tmp_path):
    general = {**LAST, "name": "general"}
    with pytest.raises(ValueError, match=message):
        make_driver(tmp_path / "run", specs=[general, {**LAST, **change}])
    assert not (tmp_path / "run").exists()


def test_texts_of_one_class_are_refused(tmp_path):
    (tmp_path / "texts.csv").write_text("text,label\nw5 w6,same\nw7 w8,same\nw9 w9,same\n")
    labelled = {"task": "labelled", "data_files": str(tmp_path / "texts.csv")}
    with pytest.raises(ValueError, match="The stage 'last': data has one class, 'same'; a classifier needs two"):
        make_driver(tmp_path / "run", specs=[{**LAST, "data": labelled}]).run()


def test_a_pattern_that_matches_nothing_and_a_stage_without_data_are_errors(tmp_path):
    with pytest.raises(ValueError, match=r"no parameter of LlamaForCausalLM matches 'model.layer.1.\*'. Names"):
        make_driver(tmp_path / "run", specs=[{**LAST, "trainable": ["model.layer.1.*"]}]).run()
    with pytest.raises(ValueError, match="no data"):
        make_driver(tmp_path / "other", specs=[{"name": "one", "losses": ["task"]}]).run()


class Blend:
    """A plugin whose builder needs two models."""

    @hookimpl
    def register_students(self, register):
        register("blend", blend)


@shape_only
def blend(teacher, *, other):
    _, weights = open_weights(other)
    mapping = {
        name: Source("mean", (name,), function=lambda tensor, name=name: (tensor + weights[name]) / 2)
        for name in teacher.state_dict()
    }
    return Blueprint(teacher.config, mapping)


def test_a_student_is_built_from_two_earlier_students(tmp_path):
    first = {"name": "first", "losses": ["task"], "data": data(0)}
    second = {"name": "second", "losses": ["task"], "data": data(1)}
    built = {"builder": "blend", "from": {"stage": "first"}, "other": {"stage": "second"}}
    third = {"name": "third", "losses": ["task"], "data": data(0), "student": built}
    make_driver(tmp_path / "run", specs=[first, second, third], plugins=[Blend()]).run()
    one, other = (weights(tmp_path / "run/stages" / name / "model") for name in ("00-first", "01-second"))
    start = weights(tmp_path / "run/stages/02-third/start")
    assert any(not torch.equal(one[name], other[name]) for name in one)
    for name, value in start.items():
        torch.testing.assert_close(value, (one[name] + other[name]) / 2)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"stage": "later"}, "takes its student from the stage 'later', which is none of the earlier ones"),
        ({"stage": "initial"}, "builds from the initial student, which is no folder"),
    ],
)
def test_building_a_student_from_what_is_not_there_is_refused(source, message, tmp_path):
    built = {"builder": "layer_drop", "from": source, "layers": 1}
    with pytest.raises(ValueError, match=message):
        make_driver(tmp_path / "run", specs=[LAST, {**LAST, "name": "built", "student": built}])
