"""`DistillationTrainer` with teachers: what it trains on, measures, exports, and refuses."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    TrainingArguments,
)

from hf_distill import BatchLoss, MixtureSelector, RowLoss
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_model, tiny_tokenizer

from .trainers import TEXT, trainer_for


def test_plain_training_arguments_and_a_teacher_are_enough_to_distil(tmp_path, caplog):
    args = TrainingArguments(str(tmp_path), max_steps=2, logging_steps=1, report_to="none", use_cpu=True)
    trainer = trainer_for(tmp_path, args=args)
    trainer.train()
    first = trainer.state.log_history[0]
    assert first["loss"] == pytest.approx(0.5 * first["task_loss"] + 0.5 * first["forward_kl_loss"], rel=1e-5)
    assert {"teacher_entropy", "teacher_agreement", "tokens_per_second", "peak_memory_mb"} <= set(first)


@pytest.mark.parametrize("family", ["llama", "gemma2", "bert_mlm", "t5", "bart", "bert_classifier", "bert_tokens"])
def test_logged_losses_are_those_of_a_plain_computation(family, tmp_path):
    """Cross-entropy and KL of the first batch, computed from whole logits by PyTorch's own functions."""
    tokenizer = tiny_tokenizer()
    data, collator = causal_lm_dataset(4), TEXT
    if family == "bert_classifier":
        data, collator = classification_dataset(4), DataCollatorWithPadding(tokenizer)
    elif family == "bert_tokens":
        data = data.map(lambda row: {"labels": [token % 3 for token in row["labels"]]})
        collator = DataCollatorForTokenClassification(tokenizer)
    elif family == "bert_mlm":
        data = data.map(lambda row: {"labels": [token if token % 2 else -100 for token in row["labels"]]})
        collator = DataCollatorForTokenClassification(tokenizer)
    student, teacher = tiny_model(family), tiny_model(family, seed=1)
    reference = copy.deepcopy(student)
    trainer = trainer_for(
        tmp_path,
        model=student,
        teacher=teacher,
        data=data,
        collator=collator,
        max_steps=1,
        train_sampling_strategy="sequential",
    )
    trainer.train()
    batch = dict(collator([dict(row) for row in data]))
    with torch.no_grad():
        ours, theirs = reference(**batch), teacher(**batch)
    labels = batch["labels"]
    logits, soft = ours.logits, theirs.logits
    if family in ("llama", "gemma2"):
        labels, logits, soft = labels[:, 1:], logits[:, :-1], soft[:, :-1]
    keep = labels != -100
    divergence = torch.nn.functional.kl_div(logits[keep].log_softmax(-1), soft[keep].softmax(-1), reduction="batchmean")
    assert divergence > 0.01
    first = trainer.state.log_history[0]
    assert first["task_loss"] == pytest.approx(ours.loss.item(), rel=1e-4)
    assert first["forward_kl_loss"] == pytest.approx(divergence.item(), rel=1e-4)
    agreement = (logits[keep].argmax(-1) == soft[keep].argmax(-1)).double().mean().item()
    assert first["teacher_agreement"] == pytest.approx(agreement)


def test_evaluation_before_training_reports_what_a_plain_computation_gives(tmp_path):
    data = causal_lm_dataset(10)
    student, teacher = tiny_model("llama"), tiny_model("llama", seed=1)
    trainer = trainer_for(tmp_path, model=student, teacher=teacher, eval_data=data)
    metrics = trainer.evaluate()
    total = torch.zeros(3, dtype=torch.float64)
    for row in data:
        tokens = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            ours, theirs = student(tokens).logits[0, :-1], teacher(tokens).logits[0, :-1]
        entropy = torch.nn.functional.cross_entropy(ours, tokens[0, 1:], reduction="sum")
        kl = torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="sum")
        total += torch.tensor([entropy.item(), kl.item(), tokens.shape[1] - 1])
    assert metrics["eval_task_loss"] == pytest.approx(total[0].item() / total[2].item(), rel=1e-5)
    assert metrics["eval_perplexity"] == pytest.approx(math.exp(total[0].item() / total[2].item()), rel=1e-5)
    assert metrics["eval_forward_kl_loss"] == pytest.approx(total[1].item() / total[2].item(), rel=1e-5)
    assert trainer.is_in_train is False
    trainer.train()


def test_perplexity_is_reported_when_only_the_teacher_is_learned_from(tmp_path):
    trainer = trainer_for(tmp_path, losses=["reverse_kl"], eval_data=causal_lm_dataset(6))
    metrics = trainer.evaluate()
    assert metrics["eval_perplexity"] > 1
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_reverse_kl_loss"], rel=0.2)


def test_evaluation_without_labels_reports_the_distillation_loss_and_no_perplexity(tmp_path):
    data = causal_lm_dataset(8).remove_columns("labels")
    collator = DataCollatorWithPadding(tiny_tokenizer())
    trainer = trainer_for(tmp_path, losses=["forward_kl"], data=data, eval_data=data, collator=collator)
    trainer.train()
    metrics = trainer.evaluate()
    assert metrics["eval_forward_kl_loss"] > 0
    assert "eval_perplexity" not in metrics


def test_compute_metrics_gets_the_students_logits(tmp_path):
    seen = {}

    def compute_metrics(prediction):
        seen["logits"], seen["labels"] = prediction.predictions, prediction.label_ids
        return {"size": float(prediction.predictions.shape[0])}

    student, data = tiny_model("llama"), causal_lm_dataset(5)
    trainer = trainer_for(tmp_path, model=student, eval_data=data, compute_metrics=compute_metrics)
    assert trainer.evaluate()["eval_size"] == 5
    with torch.no_grad():
        expected = student(torch.tensor([data[0]["input_ids"]])).logits[0].numpy()
    np.testing.assert_allclose(seen["logits"][0, : len(expected)], expected, atol=1e-5)
    predicted = trainer.predict(data)
    assert predicted.predictions.shape[0] == 5
    assert predicted.metrics["test_forward_kl_loss"] > 0


def test_compute_loss_func_is_the_tasks_loss(tmp_path):
    def double(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits[:, :-1].flatten(0, 1)
        total = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten(), reduction="sum")
        return 2 * total / num_items_in_batch

    histories = []
    for function in (None, double):
        trainer = trainer_for(tmp_path, compute_loss_func=function, max_steps=1)
        trainer.train()
        histories.append(trainer.state.log_history[0]["task_loss"])
    assert histories[1] == pytest.approx(2 * histories[0], rel=1e-5)


def test_exported_student_carries_no_projections(tmp_path):
    student = tiny_model("llama", hidden_size=16)
    trainer = trainer_for(tmp_path, model=student, losses=["hidden_mse", "forward_kl"])
    before = {name: value.clone() for name, value in student.state_dict().items() if "distillation" in name}
    trainer.train()
    assert any(not torch.equal(student.state_dict()[name], value) for name, value in before.items())
    trainer.save_model(str(tmp_path / "by_trainer"))
    student.save_pretrained(tmp_path / "by_model")
    for folder in ("by_trainer", "by_model"):
        assert not any("distillation" in name for name in load_file(tmp_path / folder / "model.safetensors"))
        assert "distillation" not in (tmp_path / folder / "config.json").read_text()
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        tokens = torch.tensor([[1, 7, 9, 11]])
        assert torch.equal(loaded(tokens).logits, student.eval()(tokens).logits)


class Drifting(RowLoss):
    """A loss with a buffer that keeps time and a parameter that is trained."""

    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))
        self.register_buffer("seen", torch.zeros(()))
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, student_logits, teacher_logits):
        target = teacher_logits.softmax(-1)
        return (self.scale**2 + self.steps) * -(target * student_logits.log_softmax(-1)).sum(-1)

    def on_step_end(self, info):
        self.steps += 1
        self.seen.fill_(info.losses["Drifting"])
        assert info.step == int(self.steps)


class Swinging(MixtureSelector):
    """Turns the mixture round at every interval."""

    def update(self, step, probe):
        self.weights = self.weights[::-1].copy()

    def start(self, probe):
        self.weights = np.array([0.9, 0.1])


@pytest.mark.parametrize("cut", [3, 4, 7])
def test_resumed_run_is_bit_identical_to_an_uninterrupted_run(tmp_path, cut):
    def run(folder, resume=None, **overrides):
        trainer = trainer_for(
            folder,
            model=tiny_model("llama", hidden_size=16, attention_dropout=0.1),
            losses=[Drifting(), {"name": "hidden_mse", "weight": {"start": 1.0, "end": 0.0}}, "task"],
            selector=Swinging(interval=4),
            data=causal_lm_dataset(16, num_domains=2),
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            max_steps=9,
            save_strategy="steps",
            save_steps=cut,
            **overrides,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path)
    again = run(tmp_path, resume=str(tmp_path / f"checkpoint-{cut}"))
    names = [name for name in whole.model.state_dict() if "distillation" in name]
    assert len(names) > 3
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, again)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 9


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute:UserWarning",  # Dynamo looks at every tensor's
    "ignore:`is_gradient_checkpointing`:FutureWarning",  # peft asks for it
)
@pytest.mark.parametrize(
    "how",
    ["lora", "lora_head", "checkpointing", "bf16", "compile", "teacher_bf16", "teacher_float64", "offloaded", "tied"],
)
def test_training_with_common_options_brings_the_student_nearer_to_a_frozen_teacher(how, tmp_path):
    student, teacher, options = tiny_model("llama"), tiny_model("llama", seed=1), {}
    if how.startswith("lora"):
        targets = ["q_proj", "v_proj"] + (["lm_head"] if how == "lora_head" else [])
        student = get_peft_model(student, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    elif how == "checkpointing":
        options["activation_checkpointing"] = True
    elif how == "bf16":
        options["bf16"] = True
    elif how == "compile":
        options |= {"torch_compile": True, "torch_compile_backend": "eager"}
    elif how == "teacher_bf16":
        teacher = teacher.bfloat16()
    elif how == "teacher_float64":
        teacher = teacher.double()
    elif how == "offloaded":
        teacher = {"model": teacher, "placement": "offloaded"}
    elif how == "tied":
        student = tiny_model("llama", tie_word_embeddings=True)
    data = causal_lm_dataset(16)
    losses = ["forward_kl", {"name": "hidden_mse", "weight": 0.01}]
    trainer = trainer_for(
        tmp_path, model=student, teacher=teacher, data=data, eval_data=data, losses=losses, max_steps=12, **options
    )
    frozen = trainer.plan.teachers["teacher"].model.state_dict()
    before = {name: value.clone() for name, value in frozen.items() if not value.is_meta}
    distance = trainer.evaluate()["eval_forward_kl_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_forward_kl_loss"] < distance
    assert all(torch.equal(value, before[name]) for name, value in frozen.items() if name in before)
    assert not any(parameter.grad is not None for parameter in trainer.plan.teachers["teacher"].model.parameters())


def test_a_padded_head_of_the_same_vocabulary_gives_the_same_losses(tmp_path):
    tokenizer = tiny_tokenizer()
    teacher = tiny_model("llama", seed=1)
    padded = copy.deepcopy(teacher)
    padded.resize_token_embeddings(80, mean_resizing=False)
    torch.nn.init.normal_(padded.get_output_embeddings().weight.data[64:], std=10)
    losses = []
    for model in (teacher, padded):
        spec = {"model": model, "tokenizer": tokenizer}
        trainer = trainer_for(tmp_path, teacher=spec, processing_class=tokenizer, max_steps=2)
        trainer.train()
        losses.append([entry["forward_kl_loss"] for entry in trainer.state.log_history if "loss" in entry])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_teachers_are_kept_apart(tmp_path):
    """Each loss listens to its own teacher; the row losses of both share one pass over the student's logits."""
    models = {"big": tiny_model("llama", seed=1), "other": tiny_model("llama", seed=2, hidden_size=16)}
    data = causal_lm_dataset(4)
    expected = {}
    for name, model in models.items():
        alone = trainer_for(tmp_path, teacher=model, losses=["forward_kl"], data=data, eval_data=data)
        expected[name] = alone.evaluate()["eval_forward_kl_loss"]
    assert expected["big"] != pytest.approx(expected["other"], rel=0.01)
    both = trainer_for(
        tmp_path,
        teacher=[{"name": name, "model": model} for name, model in models.items()],
        losses=[{"name": "forward_kl", "label": f"from_{name}", "teacher": name, "weight": 0.5} for name in models],
        data=data,
        eval_data=data,
    )
    metrics = both.evaluate()
    for name, value in expected.items():
        assert metrics[f"eval_from_{name}_loss"] == pytest.approx(value, rel=1e-5)
    assert metrics["eval_loss"] == pytest.approx(sum(expected.values()) / 2, rel=1e-5)


def test_extra_columns_reach_the_loss_that_asked_for_them(tmp_path):
    class Weighed(BatchLoss):
        items = "examples"
        needs_teacher = False
        needs_student_rows = True
        columns = ("importance", "name")

        def forward(self, student, teacher, batch):
            assert batch.extras["name"][0].startswith("row")
            logits = student.rows.head.project(student.rows.states)
            return (batch.extras["importance"] * logits.square().mean((1, 2))).sum()

    data = causal_lm_dataset(8).map(lambda _, i: {"importance": float(i), "name": f"row {i}"}, with_indices=True)
    trainer = trainer_for(tmp_path, data=data, teacher=None, losses=[Weighed()], max_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["Weighed_loss"] > 0
