"""Schedules, and that they train."""

import itertools

import pytest
import torch
from hf_distill_progressive.presets import ernie_tiny, generations, well_read
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding

from hf_distill import StagesDriver, TrainingData, load_student
from hf_distill.testing import classification_dataset, tiny_model, tiny_tokenizer

DEFAULTS = {
    **{"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_strategy": "no"},
    **{"use_cpu": True, "disable_tqdm": True},
}
NAMES = {"pretrained": "p", "finetuned": "f", "general": {"texts": "g"}, "task": {"texts": "t"}}


def rows(*, labels=True, seed=0):
    found = classification_dataset(16, seed=seed)
    return TrainingData(found if labels else found.remove_columns("labels"), collator=DataCollatorWithPadding(tiny_tokenizer()))  # fmt: skip  # noqa: E501


def test_each_stage_of_ernie_tiny_changes_exactly_one_of_teacher_data_and_losses():
    stages = ernie_tiny(**NAMES)
    for before, after in itertools.pairwise(stages):
        assert sum(before[key] != after[key] for key in ("teacher", "data", "losses")) == 1
    assert ["task" in stage["losses"] for stage in stages] == [False, False, False, True]
    assert ernie_tiny(**NAMES, changes={"general": {"max_steps": 9}})[0]["max_steps"] == 9
    with pytest.raises(ValueError, match="names the stage 'genral'"):
        ernie_tiny(**NAMES, changes={"genral": {}})


def test_ernie_tiny_carries_its_projections_over_to_every_later_stage(tmp_path):
    teacher = {"num_hidden_layers": 4, "hidden_size": 48}
    stages = ernie_tiny(
        pretrained=tiny_model("bert_mlm", seed=1, **teacher),
        finetuned=tiny_model("bert_classifier", seed=2, **teacher),
        general=rows(labels=False),
        task=rows(seed=1),
    )
    student = tiny_model("bert_classifier")
    driver = StagesDriver(stages, student=student, output_dir=tmp_path, plugins=["features"], defaults=DEFAULTS)
    records = driver.run().records
    assert [record.carried_over for record in records] == [[], *[["ernie_latent"]] * 3]


def test_well_read_students_keep_what_they_read(tmp_path):
    masked = TrainingData(rows(labels=False).train, collator=DataCollatorForLanguageModeling(tiny_tokenizer(), seed=0))
    stages = well_read(
        teacher=tiny_model("bert_classifier", seed=1),
        general=masked,
        transfer=rows(labels=False, seed=1),
        labelled=rows(seed=2),
        model_class={"name": "BertForSequenceClassification", "num_labels": 3},
    )
    driver = StagesDriver(stages, student=tiny_model("bert_mlm"), output_dir=tmp_path, defaults=DEFAULTS)
    result = driver.run()
    read, began = (load_student(tmp_path / "stages" / name) for name in ("00-pretrain/model", "01-distil/start"))
    first = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(read.state_dict()[first], began.state_dict()[first])
    assert load_student(result.folder).config.num_labels == 3


def test_each_generation_weighs_its_losses_by_its_alpha_and_begins_with_a_new_seed(tmp_path):
    stages = [{**stage, "data": rows()} for stage in generations(steps=3, alpha=[0.25, 0.5], seed=3)]
    assert [loss["weight"] for loss in stages[2]["losses"]] == [0.5, 0.5]
    seeds = []

    def student():
        seeds.append(torch.initial_seed())
        return tiny_model("bert_classifier", seed=torch.initial_seed())

    driver = StagesDriver(stages, student=student, output_dir=tmp_path, plugins=["progressive"], defaults=DEFAULTS)
    driver.run()
    assert seeds == [3, 4, 5]
    with pytest.raises(ValueError, match="or 2 of them"):
        generations(steps=3, alpha=[0.5])
