"""The two schedules as runs in stages."""

from __future__ import annotations

import pytest
import torch
from hf_distill_weightmaps.presets import bert2bert, v_cycle
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq

from hf_distill import Plugins, StagesDriver, TrainingData, build_student
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

PLUGINS = Plugins(["weightmaps"])
COLLATOR = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)
DATA = TrainingData(causal_lm_dataset(16), causal_lm_dataset(8, seed=1), collator=COLLATOR)
DEFAULTS = {"max_steps": 2, "use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_strategy": "no"}


def run(stages, student, folder):
    data = [{"data": DATA, **stage} for stage in stages]
    return StagesDriver(data, student=student, output_dir=folder, plugins=["weightmaps"], defaults=DEFAULTS).run()


def state(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def test_a_v_cycle_comes_back_to_the_big_model(tmp_path):
    stages = v_cycle(alpha=0.5, coalesce={"layers": 2}, changes={"level-2": {"learning_rate": 2e-3}})
    result = run(stages, tiny_model("llama"), tmp_path / "run")
    assert [record.name for record in result.records] == ["level-1", "level-2", "level-1-again"]
    folders = [tmp_path / "run/stages" / name for name in ("00-level-1", "01-level-2", "02-level-1-again")]
    small = AutoModelForCausalLM.from_pretrained(folders[1] / "model")
    assert small.config.hidden_size == 16
    grown = build_student(small, "decoalesce", plugins=PLUGINS, layers=2).model.state_dict()
    big = state(folders[0] / "model")
    for name, tensor in state(folders[2] / "start").items():
        torch.testing.assert_close(tensor, (big[name] + grown[name]) / 2)


def test_deeper_cycles_go_back_level_by_level():
    stages = v_cycle(levels=3)
    assert [stage["name"] for stage in stages] == ["level-1", "level-2", "level-3", "level-2-again", "level-1-again"]
    assert [stage["student"]["from"]["stage"] for stage in stages[1:]] == ["level-1", "level-2", "previous", "previous"]
    assert [stage["student"].get("onto") for stage in stages[3:]] == [{"stage": "level-2"}, {"stage": "level-1"}]


def test_growth_starts_from_the_grown_model_and_trains_a_part_of_it_before_all_of_it(tmp_path):
    tiny_model("llama").save_pretrained(tmp_path / "small")
    options = {"hidden_size": 64, "layers": 4, "mode": "aki"}
    result = run(bert2bert(grow=options, block=1), str(tmp_path / "small"), tmp_path / "run")
    grown = build_student(tmp_path / "small", "grow", plugins=PLUGINS, **options).model.state_dict()
    start = state(tmp_path / "run/stages/00-sub-models/start")
    assert all(torch.equal(start[name], tensor) for name, tensor in grown.items())
    first, second = (state(tmp_path / "run/stages" / name / "model") for name in ("00-sub-models", "01-whole"))
    frozen = [name for name in first if "layers" in name and torch.equal(first[name], start[name])]
    assert frozen  # two steps train at most two of four blocks
    assert not [name for name in second if "layers" in name and torch.equal(first[name], second[name])]
    assert len(result.records) == 2


def test_the_last_student_of_a_v_cycle_mixes_the_previous_stage_with_the_first():
    assert v_cycle(alpha=0.5, depth="apart")[-1]["student"] == {
        **{"builder": "interpolate", "from": {"stage": "previous"}, "onto": {"stage": "level-1"}},
        **{"alpha": 0.5, "depth": "apart"},
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: v_cycle(levels=1), "levels is 1; a cycle has at least 2"),
        (lambda: v_cycle(changes={"level-9": {}}), "changes names the stage 'level-9'; there are level-1, level-2"),
    ],
)
def test_an_impossible_schedule_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
