"""A tiny training with each loss, from the name in the configuration to a student that has learnt."""

import subprocess
import sys

import pytest
import torch
from datasets import Dataset
from hf_distill_classification.views import TwoViews, WordDropout
from transformers import DataCollatorWithPadding, default_data_collator

from hf_distill import DistillationArguments, DistillationTrainer, Plugins, transform
from hf_distill.testing import classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

PLUGINS = Plugins(["classification"])
TEXTS = {
    "dkd": ["task", {"name": "dkd", "temperature": 4.0}],
    "dist": ["task", {"name": "dist", "temperature": 2.0}],
    "standardized_kl": ["task", {"name": "standardized_kl", "temperature": 2.0, "weight": 9.0}],
    "binary_kl": ["task", {"name": "binary_kl", "temperature": 2.0}],
    "dual_head": ["task", {"name": "dual_head", "hidden_width": 16, "gradient_alignment": True}],
    "ferkd": [{"name": "ferkd", "lower": 0.34, "middle": 0.7}],
}


def arguments(folder, **options):
    defaults = {"max_steps": 30, "per_device_train_batch_size": 8, "learning_rate": 3e-3, "logging_steps": 1}
    quiet = {"use_cpu": True, "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
    return DistillationArguments(str(folder), **{**defaults, **quiet, "plugins": ["classification"], **options})


def accuracy(predictions):
    """Of the first logits of a model that gives several."""
    logits = predictions.predictions
    logits = logits[0] if isinstance(logits, tuple) else logits
    return {"accuracy": (logits.argmax(-1) == predictions.label_ids).mean()}


def falls(trainer, name="loss"):
    losses = [entry[name] for entry in trainer.state.log_history if name in entry]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_classifier_learns(tmp_path, name):
    trainer = DistillationTrainer(
        tiny_model("bert_classifier", seed=1),
        arguments(tmp_path, losses=TEXTS[name]),
        teacher=tiny_model("bert_classifier", seed=2, num_hidden_layers=1),
        train_dataset=classification_dataset(16),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    trainer.train()
    falls(trainer)


def images(num_examples=12):
    pixels = tiny_inputs(tiny_model("vit"), num_examples=num_examples)["pixel_values"]
    labels = [(index % 4) % 3 for index in range(num_examples)]
    return Dataset.from_dict({"pixel_values": pixels.numpy(), "labels": labels}).with_format("torch")


def test_a_transformer_with_two_heads_learns_and_predicts_its_labels(tmp_path):
    trainer = DistillationTrainer(
        tiny_model("deit", seed=1),
        arguments(tmp_path, losses=[{"name": "deit_lt", "reweight_from": 0.5}]),
        teacher=tiny_model("vit", seed=2),
        train_dataset=images(),
        eval_dataset=images(),
        data_collator=default_data_collator,
        compute_metrics=accuracy,
    )
    loss = trainer.plan.losses[0].function
    assert loss.counts.tolist() == [6, 3, 3]
    trainer.train()
    falls(trainer, "deit_lt/label_loss")
    assert loss.reweighting == 1
    assert trainer.evaluate()["eval_accuracy"] > 0.5


def other_words(feature):
    """A strong view that is the same every time."""
    return {**feature, "input_ids": [5 + (3 * token) % 59 for token in feature["input_ids"]]}


def expert_trainer(folder, *, strong=None, **options):
    student = tiny_model("bert_classifier", seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        transform(student, "experts", plugins=PLUGINS)
    tokenizer = tiny_tokenizer()
    return DistillationTrainer(
        student,
        arguments(folder, losses=["mdcs"], **options),
        train_dataset=classification_dataset(16),
        eval_dataset=classification_dataset(8),
        data_collator=TwoViews(DataCollatorWithPadding(tokenizer), strong=strong or WordDropout(0.2, tokenizer)),
        compute_metrics=accuracy,
    )


def test_experts_learn_from_two_views_and_are_measured_by_their_plain_logits(tmp_path):
    trainer = expert_trainer(tmp_path)
    trainer.train()
    falls(trainer, "mdcs/diversity_loss")
    metrics = trainer.evaluate()
    student, rows = trainer.student.eval(), list(classification_dataset(8))
    inputs = DataCollatorWithPadding(tiny_tokenizer())(rows)
    labels = inputs.pop("labels")
    expected = (student(**inputs).logits.argmax(-1) == labels).float().mean().item()
    assert metrics["eval_accuracy"] == pytest.approx(expected)
    assert trainer.plan.losses[0].function.counts.sum() == 16


def test_a_resumed_run_ends_with_the_student_of_an_uninterrupted_one(tmp_path):
    straight = expert_trainer(tmp_path, strong=other_words, max_steps=6, save_strategy="steps", save_steps=3)
    straight.train()
    resumed = expert_trainer(tmp_path, strong=other_words, max_steps=6)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    for name, value in straight.student.state_dict().items():
        torch.testing.assert_close(resumed.student.state_dict()[name], value, msg=name)


def test_every_component_has_its_training_here():
    own = {component.name for component in PLUGINS.losses if "hf-distill-classification" in str(component)}
    assert own == {*TEXTS, "deit_lt", "mdcs"}


def test_the_plugin_does_not_import_torch_to_say_what_it_has():
    source = "import sys, hf_distill_classification; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", source], check=True)
