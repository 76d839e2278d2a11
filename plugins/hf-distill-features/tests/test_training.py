"""Tiny trainings: every loss falls, two teachers in one sum, convolutions with transformers, two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    ResNetConfig,
    ResNetForImageClassification,
    default_data_collator,
)

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

LANGUAGE = ["rkd_distance", "rkd_angle", "similarity_preserving", "pkt", "correlation_congruence", "vid", "mi_alpha"]
LANGUAGE += ["ernie_latent", "hybrid_features"]


def arguments(folder, **options):
    defaults = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "per_device_train_batch_size": 8}
    schedule = {"learning_rate": 3e-3, "lr_scheduler_type": "constant", "logging_steps": 1, "save_strategy": "no"}
    return DistillationArguments(output_dir=str(folder), **{**defaults, **schedule, **options})


def train(folder, losses, student, teacher, dataset, collator, **options):
    trainer = DistillationTrainer(
        student,
        arguments(folder, **options),
        teacher=teacher,
        losses=losses,
        plugins=["features"],
        train_dataset=dataset,
        data_collator=collator,
    )
    trainer.train()
    return trainer


def falls(trainer):
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(losses[-4:]) < sum(losses[:4])


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", LANGUAGE)
def test_a_language_model_learns_from_a_wider_one(tmp_path, name, bf16):
    student, teacher = tiny_model("llama", seed=1), tiny_model("llama", seed=2, hidden_size=48, num_hidden_layers=4)
    collator = DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100)
    trainer = train(tmp_path, [name], student, teacher, causal_lm_dataset(16), collator, max_steps=24, bf16=bf16)
    falls(trainer)


def test_a_classifier_learns_by_contrast_with_a_memory_of_its_examples(tmp_path):
    dataset = classification_dataset(16)
    dataset = dataset.add_column("example_id", range(len(dataset)))
    models = tiny_model("bert_classifier", seed=1), tiny_model("bert_classifier", seed=2, hidden_size=48)
    crd = {"name": "crd", "num_examples": 16, "width": 16, "contrast_temperature": 0.2}
    trainer = train(tmp_path, [crd], *models, dataset, DataCollatorWithPadding(tiny_tokenizer()), max_steps=24)
    falls(trainer)
    norms = trainer.plan.losses[0].function.memory.teacher.norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(16))  # every example was seen, and its vector moved


def images(num_examples=16):
    pixels = tiny_inputs(tiny_model("vit"), num_examples=num_examples)["pixel_values"]
    labels = [index % 3 for index in range(num_examples)]
    return Dataset.from_dict({"pixel_values": pixels.numpy(), "labels": labels}).with_format("torch")


def resnet(seed):
    torch.manual_seed(seed)
    config = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic", "num_labels": 3}
    return ResNetForImageClassification(ResNetConfig(**config))


STAGES = {"taps": ["module:resnet.encoder.stages.0", "module:resnet.encoder.stages.1"], "widths": [8, 16]}


@pytest.mark.parametrize(
    ("student", "teacher", "options"),
    [(lambda: tiny_model("vit"), resnet, {"pooling": "first"}), (lambda: resnet(0), tiny_model, STAGES)],
    ids=["transformer from convolutions", "convolutions from transformer"],
)
def test_architectures_learn_from_each_other_by_branches_that_the_export_lacks(tmp_path, student, teacher, options):
    teacher = teacher("vit", seed=1) if teacher is tiny_model else teacher(1)
    losses = ["task", {"name": "ofa_kd", **options}]
    trainer = train(tmp_path, losses, student(), teacher, images(), default_data_collator, max_steps=24)
    falls(trainer)
    assert {"ofa_kd/final_loss", "ofa_kd/branches_loss"} <= trainer.state.log_history[0].keys()
    trainer.save_model()
    _, report = type(trainer.student).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())


def test_a_student_learns_relations_from_one_teacher_and_features_from_the_other(tmp_path):
    teachers = [
        {"name": name, "model": tiny_model("vit", seed=seed)} for name, seed in (("masked", 2), ("contrast", 3))
    ]
    losses = [
        {"name": "hybrid_relations", "teacher": "masked", "masking": 0.3},
        {"name": "hybrid_features", "teacher": "contrast", "masking": 0.3, "weight": 0.5},
    ]
    trainer = train(
        tmp_path, losses, tiny_model("vit", seed=1), teachers, images(), default_data_collator, max_steps=24
    )
    falls(trainer)
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    for name in ("hybrid_relations_loss", "hybrid_features_loss"):
        assert last[name] < first[name]


def test_relations_join_convolutions_and_transformers_by_the_names_of_features(tmp_path):
    rkd = {"name": "rkd_distance", "taps": ["hidden.-1", "module:resnet.pooler"]}
    falls(train(tmp_path, [rkd], tiny_model("vit"), resnet(1), images(), default_data_collator, max_steps=24))


def crd_memory(folder, batch_size):
    """The memory after two optimizer steps on eight examples."""
    dataset = classification_dataset(8, min_length=6, max_length=6)
    trainer = train(
        folder,
        [{"name": "crd", "num_examples": 8, "width": 4, "contrast_temperature": 1.0}],
        tiny_model("bert_classifier", seed=1),
        tiny_model("bert_classifier", seed=2),
        dataset.add_column("example_id", range(8)),
        default_data_collator,
        max_steps=2,
        per_device_train_batch_size=batch_size,
        train_sampling_strategy="sequential",
        learning_rate=1e-6,
    )
    return {name: value.tolist() for name, value in trainer.plan.losses[0].function.memory.named_buffers()}


@pytest.mark.distributed
def test_two_processes_keep_the_memory_that_one_would(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", __file__]
    subprocess.run([*command, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=240)
    memories = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert memories[0] == memories[1]
    alone = crd_memory(tmp_path / "one", 8)
    for name, value in alone.items():
        torch.testing.assert_close(torch.tensor(memories[0][name]), torch.tensor(value), rtol=1e-3, atol=1e-4)


def main(folder):
    memory = crd_memory(folder / "two", 4)
    (folder / f"{os.environ['RANK']}.json").write_text(json.dumps(memory))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
