"""What a trainer refuses, and how it says so; students and models that are made for it."""

from __future__ import annotations

import functools

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, default_data_collator

from hf_distill import DistillationTrainer, RowLoss, row_loss
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

from ..trainers import TEXT, arguments, trainer_for


def error_cases():
    tokenizer = tiny_tokenizer()
    unlabeled = causal_lm_dataset(8).remove_columns("labels")
    shared = tiny_model("llama")
    images = tiny_inputs(tiny_model("vit"))["pixel_values"]
    return {
        "unknown loss": ({"losses": ["foward_kl"]}, "did you mean 'forward_kl'"),
        "unknown parameter": ({"losses": [{"name": "jsd", "betta": 0.1}]}, "did you mean 'beta'"),
        "empty losses": ({"losses": []}, "empty list"),
        "negative temperature": ({"losses": [{"name": "forward_kl", "temperature": 0}]}, "expected a positive number"),
        "two of one name": ({"losses": ["forward_kl", "forward_kl"]}, "Two losses are called 'forward_kl'"),
        "no teacher": ({"teacher": None, "losses": ["forward_kl"]}, "none is given"),
        "unknown teacher": ({"losses": [{"name": "jsd", "teacher": "big"}]}, "names the teacher 'big'"),
        "label smoothing": ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is 0.1"),
        "vocabulary": ({"teacher": tiny_model("llama", vocab_size=70)}, "differ in width"),
        "other tokenizer": (
            {
                "teacher": {"model": tiny_model("llama", seed=1), "tokenizer": tiny_tokenizer(word="x")},
                "processing_class": tokenizer,
            },
            "tokenizers of student",
        ),
        "shared parameters": ({"model": shared, "teacher": shared}, "share parameters"),
        "no labels": (
            {"data": unlabeled, "collator": DataCollatorWithPadding(tokenizer)},
            "task loss needs labels",
        ),
        "no loss of the model's own": (
            {
                "model": tiny_model("deit"),
                "teacher": tiny_model("vit"),
                "data": Dataset.from_list([{"pixel_values": image.tolist(), "labels": 0} for image in images]),
                "collator": default_data_collator,
            },
            "gave none for labels",
        ),
        "placement": ({"teacher": {"model": tiny_model("llama"), "placement": "gpu"}}, "placement is 'gpu'"),
        "sharded without deepspeed": (
            {"teacher": {"model": tiny_model("llama", seed=1), "placement": "sharded"}},
            "not started with DeepSpeed",
        ),
        "selector without a name": ({"selector": {"interval": 3}}, "has no name"),
        "selector without a domain": ({"selector": "mixture"}, "no column 'domain'"),
        "teacher without logits": ({"teacher": tiny_model("llama", seed=1).model}, "gives no logits"),
    }


@pytest.mark.parametrize("case", sorted(error_cases()))
def test_wrong_input_is_an_error_that_says_what_is_wrong(case, tmp_path):
    options, message = error_cases()[case]
    with pytest.raises(ValueError, match=message):
        trainer_for(tmp_path, **options).train()


def test_a_model_in_the_arguments_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Give objects to the trainer itself"):
        arguments(tmp_path, teacher={"model": tiny_model("llama")})


def test_data_parallel_is_refused_in_favour_of_accelerate_launch(tmp_path):
    args = arguments(tmp_path)
    args._n_gpu = 2
    with pytest.raises(ValueError, match="accelerate launch"):
        trainer_for(tmp_path, args=args)


def test_regression_is_taught_by_squared_error_and_refuses_a_divergence(tmp_path):
    data = classification_dataset(8).map(lambda row: {"labels": float(row["labels"])})
    collator = DataCollatorWithPadding(tiny_tokenizer())
    make = {"num_labels": 1, "problem_type": "regression"}
    options = {"data": data, "collator": collator, "teacher": tiny_model("bert_classifier", seed=1, **make)}
    trainer = trainer_for(tmp_path, model=tiny_model("bert_classifier", **make), **options)
    trainer.train()
    assert trainer.state.log_history[0]["logit_mse_loss"] > 0
    with pytest.raises(ValueError, match="logit_mse"):
        trainer_for(tmp_path, model=tiny_model("bert_classifier", **make), losses=["forward_kl"], **options)


@row_loss(accepts_one_column=True)
def absolute_difference(student_logits, teacher_logits, *, power: float = 1.0):
    return (student_logits - teacher_logits).abs().pow(power).mean(-1)


class Differences(RowLoss):
    accepts_one_column = True

    def forward(self, student_logits, teacher_logits):
        return absolute_difference(student_logits, teacher_logits)


@pytest.mark.parametrize(
    ("loss", "accepted"),
    [
        ({"name": "logit_mse", "label": "mse"}, True),
        ({"function": absolute_difference}, True),
        ({"function": functools.partial(absolute_difference, power=2.0), "label": "squares"}, True),
        ({"function": Differences()}, True),
        ({"name": "forward_kl", "label": "logit_mse"}, False),
        ({"name": "jsd", "beta": 0.3, "label": "logit_mse"}, False),
        ({"name": "taid", "label": "logit_mse"}, False),
    ],
)
def test_a_loss_says_itself_whether_it_teaches_one_column(tmp_path, loss, accepted):
    make = {"num_labels": 1, "problem_type": "regression"}
    options = {
        "model": tiny_model("bert_classifier", **make),
        "teacher": tiny_model("bert_classifier", seed=1, **make),
        "data": classification_dataset(8).map(lambda row: {"labels": float(row["labels"])}),
        "collator": DataCollatorWithPadding(tiny_tokenizer()),
        "plugins": ["lm"],
        "losses": [loss],
        "max_steps": 1,
    }
    if accepted:
        trainer = trainer_for(tmp_path, **options)
        trainer.train()
        assert trainer.state.log_history[-1]["train_loss"] > 0
    else:
        with pytest.raises(ValueError, match="'logit_mse' would be zero forever"):
            trainer_for(tmp_path, **options)


def test_classes_in_another_order_are_refused(tmp_path):
    labels = {0: "bad", 1: "good", 2: "neutral"}
    student, teacher = tiny_model("bert_classifier"), tiny_model("bert_classifier", seed=1)
    student.config.id2label, teacher.config.id2label = labels, {0: "good", 1: "bad", 2: "neutral"}
    with pytest.raises(ValueError, match="column 0 is 'bad' for the student and 'good' for the teacher"):
        trainer_for(tmp_path, model=student, teacher=teacher, data=classification_dataset(8))


def test_the_new_model_of_model_init_has_the_projections_and_learns(tmp_path):
    trainer = DistillationTrainer(
        args=arguments(tmp_path, max_steps=15),
        model_init=lambda: tiny_model("llama", hidden_size=16),
        teacher=tiny_model("llama", seed=1),
        losses=["hidden_mse", "forward_kl"],
        train_dataset=causal_lm_dataset(8),
        data_collator=TEXT,
    )
    trainer.train()
    assert any("distillation" in name for name, _ in trainer.model.named_parameters())
    first, *_, last = [entry["hidden_mse_loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert last < 0.9 * first


def test_student_is_built_where_the_arguments_say_how(tmp_path):
    args = arguments(tmp_path, student={"builder": "layer_drop", "layers": 1})
    trainer = DistillationTrainer(
        args=args, teacher=tiny_model("llama"), train_dataset=causal_lm_dataset(8), data_collator=TEXT
    )
    trainer.train()
    assert trainer.model.config.num_hidden_layers == 1


def test_iterable_data_can_be_distilled_on(tmp_path):
    data = causal_lm_dataset(16).to_iterable_dataset()
    trainer = trainer_for(tmp_path, data=data)
    trainer.train()
    assert trainer.state.global_step == 3
    assert isinstance(causal_lm_dataset(2), Dataset)


def test_a_student_in_half_precision_is_refused_and_a_built_student_is_in_float32(tmp_path):
    with pytest.raises(ValueError, match=r"weights are float16, .* Load it with dtype"):
        trainer_for(tmp_path, model=tiny_model("llama").half())
    built = DistillationTrainer(
        args=arguments(tmp_path, student={"builder": "layer_drop", "layers": 1}),
        teacher=tiny_model("llama", seed=1).half(),
        train_dataset=causal_lm_dataset(4),
        data_collator=TEXT,
    )
    assert built.student.dtype == torch.float32
