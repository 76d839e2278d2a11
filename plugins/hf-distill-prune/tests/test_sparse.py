"""`lottery_ticket`: exactly K parameters of the base move, in stages and after loading, and nothing else does."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hf_distill_prune.differences import difference, save_difference
from transformers import DataCollatorWithPadding

from hf_distill import PluginError, Plugins, StagesDriver, TrainingData, build_student, load_student
from hf_distill.testing import classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

from .conftest import output

PLUGINS = Plugins(["prune"])
DEFAULTS = {"learning_rate": 5e-3, "use_cpu": True, "disable_tqdm": True, "per_device_train_batch_size": 8}


def moved(model, base, *, of_base_model):
    """How many parameters differ, of the base model or of the rest."""
    before = dict(base.named_parameters())
    return sum(
        int((parameter != before[name]).sum())
        for name, parameter in model.named_parameters()
        if name.startswith("bert.") == of_base_model
    )


@pytest.fixture
def folder(tmp_path):
    tiny_model("bert_classifier").save_pretrained(tmp_path / "base")
    return tmp_path


@pytest.fixture
def run(folder):
    tokenizer = tiny_tokenizer()
    data = TrainingData(
        classification_dataset(64), classification_dataset(32, seed=1), collator=DataCollatorWithPadding(tokenizer)
    )

    def start(**sparse):
        ticket = {"builder": "lottery_ticket", "from": str(folder / "base"), "tuned": {"stage": "full"}, "count": 500}
        stages = [
            {"name": "full", "student": str(folder / "base"), "max_steps": 10},
            {"name": "sparse", "student": ticket, "max_steps": 30, **sparse},
        ]
        driver = StagesDriver(
            stages,
            output_dir=folder / "run",
            tokenizer=tokenizer,
            plugins=["prune"],
            defaults={"data": data, "losses": ["task"], **DEFAULTS},
        )
        return driver.run()

    return start


def test_exactly_as_many_base_parameters_move_as_were_asked_for(run, folder):
    result = run()
    base, student = load_student(folder / "base", plugins=["prune"]), load_student(result.folder, plugins=["prune"])
    assert moved(student, base, of_base_model=True) == 500
    assert moved(student, base, of_base_model=False) == 3 * 32 + 3
    assert moved(load_student(folder / "run/stages/00-full/model", plugins=["prune"]), base, of_base_model=True) > 5000
    tuned, before = result.records[1].metrics["eval_task_loss"], run_loss(base)
    assert tuned < before, "it learns nothing"
    # As a stock model again, with the difference alone.
    found = difference(dict(student.named_parameters()), dict(base.named_parameters()))
    assert sum(len(places) for name, (places, _) in found.items() if name.startswith("bert.")) == 500
    save_difference(found, folder / "task.safetensors")
    options = {"differences": [str(folder / "task.safetensors")]}
    stock = build_student(folder / "base", "add_differences", plugins=PLUGINS, **options).model
    assert "transforms" not in stock.config.hf_distill
    torch.testing.assert_close(output(stock), output(student), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def run_loss(model):
    collate = DataCollatorWithPadding(tiny_tokenizer())
    batch = collate([dict(row) for row in classification_dataset(32, seed=1)])
    return float(model(**batch).loss)


def test_weight_decay_that_would_move_what_is_held_is_refused(run):
    with pytest.raises(PluginError, match=r"weight_decay is 0.1; it moves parameters that have no gradient"):
        run(weight_decay=0.1)


def ticket(folder, **options):
    base = load_student(folder / "base", plugins=["prune"])
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for index, parameter in enumerate(tuned.parameters()):
            torch.manual_seed(index)
            parameter.add_(torch.randn_like(parameter))
    tuned.save_pretrained(folder / "tuned")
    return build_student(base, "lottery_ticket", plugins=PLUGINS, tuned=str(folder / "tuned"), **options)


def gradients(model):
    model(**tiny_inputs(model), labels=torch.tensor([0, 1, 2])).loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_a_ticket_keeps_its_mask_when_it_is_loaded_or_copied(folder):
    build = ticket(folder, density=0.1)
    base = load_student(folder / "base", plugins=["prune"])
    assert torch.equal(output(build.model), output(base)), "it is not rewound"
    build.model.save_pretrained(folder / "ticket")
    whole = gradients(base)
    for model in (build.model, load_student(folder / "ticket", plugins=["prune"]), copy.deepcopy(build.model)):
        marked = 0
        for name, gradient in gradients(model).items():
            mask = dict(model.named_buffers()).get(name + "_is_trained")
            if mask is None:
                assert name.startswith("classifier.")
                assert torch.equal(gradient, whole[name])
            else:
                marked += int(mask.sum())
                assert torch.equal(gradient, whole[name] * mask)
                assert "LayerNorm" not in name or not mask.any()
        assert marked == build.record["num_sparse"] == round(0.1 * build.record["num_candidates"])


def test_a_ticket_remembers_which_blocks_its_base_was_made_from(folder):
    build_student(tiny_model("bert_classifier", num_hidden_layers=4), layers=[1, 3]).model.save_pretrained(
        folder / "base"
    )
    assert ticket(folder, count=10).model.config.hf_distill["layer_map"] == [1, 3]


def test_free_parameters_are_not_masked(folder):
    build = ticket(folder, count=10, free=["classifier.*", "*.query.bias"])
    masked = {name.removesuffix("_is_trained") for name, _ in build.model.named_buffers() if name.endswith("trained")}
    assert not any("query.bias" in name or "classifier" in name for name in masked)
    assert "bert.encoder.layer.0.attention.self.query.weight" in masked


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "density is None and count None; expected one of the two"),
        ({"density": 0.5, "count": 3}, "density is 0.5 and count 3; expected one of the two"),
        ({"density": 1.5}, r"density is 1.5; expected a share of the parameters, in \(0, 1\]"),
        ({"count": 10**9}, "count is 1000000000; there are"),
        ({"count": 1, "free": "klassifier.*"}, r"no parameter of BertForSequenceClassification matches 'klassifier"),
    ],
)
def test_an_impossible_ticket_is_refused(folder, options, message):
    with pytest.raises(ValueError, match=message):
        ticket(folder, **options)


def test_the_record_of_a_ticket_names_its_mask_and_survives_json(folder):
    build = ticket(folder, count=10)
    assert build.mapping["bert.pooler.dense.weight_is_trained"].operator == "mask"
    assert json.loads(json.dumps(build.model.config.hf_distill))["transforms"][0]["name"] == "mask_gradients"
