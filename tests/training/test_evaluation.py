"""Metrics that are named are in every evaluation, with and without a teacher, and cost one pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding, TrainingArguments

from hf_distill import DistillationArguments, DistillationTrainer, Metric
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_model, tiny_tokenizer

METRICS = ["accuracy", "f1", {"name": "calibration", "num_bins": 4}, "perplexity"]


def classifier(folder, **options):
    options = {"metrics": METRICS, **options}
    return DistillationTrainer(
        tiny_model("bert_classifier"),
        TrainingArguments(str(folder), report_to="none", use_cpu=True, per_device_eval_batch_size=3),
        eval_dataset=classification_dataset(10),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
        **options,
    )


def language_model(folder, **options):
    arguments = DistillationArguments(
        str(folder), report_to="none", use_cpu=True, per_device_eval_batch_size=3, metrics=["accuracy", "perplexity"]
    )
    return DistillationTrainer(
        tiny_model("llama"),
        arguments,
        eval_dataset=causal_lm_dataset(10),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
        **options,
    )


def test_with_and_without_a_teacher_the_figures_are_those_of_the_predictions(tmp_path):
    plain = classifier(tmp_path)
    expected = plain.predict(plain.eval_dataset)
    found = {True: classifier(tmp_path, teacher=tiny_model("bert_classifier", seed=1)).evaluate()}
    found[False] = plain.evaluate()
    classes, labels = expected.predictions.argmax(-1), expected.label_ids
    for metrics in found.values():
        assert metrics["eval_accuracy"] == pytest.approx((classes == labels).mean())
        assert metrics["eval_f1"] == pytest.approx(f1_score(labels, classes, average="macro", zero_division=0))
    assert found[True]["eval_perplexity"] == pytest.approx(found[False]["eval_perplexity"], rel=1e-5)
    calibration = "eval_expected_calibration_error"
    assert found[True][calibration] == pytest.approx(found[False][calibration], abs=1e-6)


def test_of_a_language_model_every_position_with_a_label_counts_once(tmp_path):
    plain = language_model(tmp_path)
    prediction = plain.predict(plain.eval_dataset)
    labels = prediction.label_ids[:, 1:]
    there = labels != -100
    accuracy = (prediction.predictions[:, :-1].argmax(-1) == labels)[there].mean()
    assert plain.evaluate()["eval_accuracy"] == pytest.approx(accuracy)
    taught = language_model(tmp_path, teacher=tiny_model("llama", seed=1)).evaluate()
    assert taught["eval_accuracy"] == pytest.approx(accuracy)
    assert np.log(taught["eval_perplexity"]) == pytest.approx(taught["eval_task_loss"], rel=1e-5)


def test_agreement_and_loyalty_are_measured_beside_losses_on_features(tmp_path):
    teacher = tiny_model("bert_classifier", seed=1)
    trainer = classifier(
        tmp_path, teacher=teacher, losses=["task", "hidden_mse"], metrics=["teacher_agreement", "probability_loyalty"]
    )
    found = trainer.evaluate()
    logits = torch.tensor(trainer.predict(trainer.eval_dataset).predictions)
    batches = [DataCollatorWithPadding(tiny_tokenizer())([row]) for row in trainer.eval_dataset]
    with torch.no_grad():
        taught = torch.cat([teacher(**{k: v for k, v in batch.items() if k != "labels"}).logits for batch in batches])
    assert found["eval_teacher_agreement"] == pytest.approx((logits.argmax(-1) == taught.argmax(-1)).double().mean())
    assert 0 < found["eval_probability_loyalty"] < 1


def test_a_prediction_without_labels_leaves_out_what_needs_them(tmp_path):
    trainer = classifier(
        tmp_path,
        teacher=tiny_model("bert_classifier", seed=1),
        losses=["forward_kl"],
        metrics=["accuracy", "probability_loyalty"],
    )
    found = trainer.predict(classification_dataset(4).remove_columns("labels")).metrics
    assert "test_accuracy" not in found
    assert 0 < found["test_probability_loyalty"] <= 1


def test_metrics_change_no_loss(tmp_path):
    teacher = tiny_model("bert_classifier", seed=1)
    measured, bare = (classifier(tmp_path, teacher=teacher, metrics=m).evaluate() for m in (METRICS, []))
    assert {name: measured[name] for name in bare if "loss" in name} == {k: v for k, v in bare.items() if "loss" in k}


class Rows(Metric):
    """Counts rows."""

    needs_labels = False
    needs_teacher = True

    def update(self, student, teacher, labels):
        return {"rows": torch.tensor(float(len(student)))}

    def compute(self, sums, measured):
        return {"rows": float(sums["rows"]), "twice": 2 * measured["accuracy"]}


def test_a_metric_object_sees_what_was_measured_before(tmp_path):
    trainer = classifier(tmp_path, teacher=tiny_model("bert_classifier", seed=1), metrics=["accuracy", Rows()])
    found = trainer.evaluate()
    assert found["eval_rows"] == 10
    assert found["eval_twice"] == 2 * found["eval_accuracy"]


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["teacher_agreement"], "'teacher_agreement' compares with a teacher, but none is given"),
        (["accuracy", "accuracy"], "The metric 'accuracy' is named twice"),
        ([{"average": "macro"}], "has no name"),
        (["mixture"], "no metric 'mixture'"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(metrics, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        classifier(tmp_path, metrics=metrics)
