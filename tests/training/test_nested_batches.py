"""Nested batches: several forward passes of one student in a step, each on a part of its own length."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import EvalPrediction, TrainingArguments

from hf_distill import BatchLoss, DistillationTrainer, NestedBatchMixin
from hf_distill.batch.reader import BatchReader, refuse_cut_parts
from hf_distill.testing import conformance, tiny_model, tiny_tokenizer


class TwoViews(NestedBatchMixin, BatchLoss):
    """How far apart the first tokens' states of two views are, by the number of each example's second views."""

    student_parts = ("first", "second")
    needs_teacher = False

    def count(self, batch):
        return batch.count("examples")

    def distances(self, student, batch):
        first, second = (student.parts[name].outputs["last_hidden_state"][:, 0] for name in self.student_parts)
        return (first[:, None] - second.unflatten(0, (len(first), 2))).float().square().mean((1, 2))

    def forward(self, student, teacher, batch):
        return torch.where(batch.row_mask, self.distances(student, batch), 0).sum()


class Predicting(TwoViews):
    def predictions(self, student, batch):
        return self.distances(student, batch)


class Tempered(TwoViews):
    def __init__(self, *, temperature=1.0):
        super().__init__()
        self.temperature = temperature


def data(num_examples=4):
    words = [f"w{index}" for index in range(5, 60)]
    rows = [
        {"one": " ".join(words[n : n + 3 + n % 3]), "two": [" ".join(words[k : k + n + k]) for k in (1, 2)]}
        for n in range(1, num_examples + 1)
    ]
    return Dataset.from_list(rows), collate


def collate(rows):
    def encode(texts):
        return dict(tiny_tokenizer()(texts, padding=True, return_tensors="pt"))

    second = [text for row in rows for text in row["two"]]
    labels = torch.arange(len(rows), dtype=torch.float32)
    return {"first": encode([row["one"] for row in rows]), "second": encode(second), "labels": labels}


def trainer(folder, losses, *, dataset=None, data_collator=collate, **options):
    arguments = {"report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "max_steps": 2}
    return DistillationTrainer(
        tiny_model("bert", seed=1),
        TrainingArguments(str(folder), **arguments),
        losses=losses,
        train_dataset=dataset or data()[0],
        data_collator=data_collator,
        **options,
    )


test_parts_are_a_batch_like_any_other = conformance(
    TwoViews,
    student={"family": "bert", "seed": 1},
    data=data,
    lacks={"zero_at_equality": "compares the student with itself"},
)


def test_tokens_of_parts_that_no_loss_reads_are_not_counted(tmp_path):
    inputs = collate(list(data()[0])) | {"third": {"input_ids": torch.ones(4, 100, dtype=torch.int64)}}
    one = trainer(tmp_path, [TwoViews()])
    batch = one.batch_reader.read(inputs)
    expected = sum(int(inputs[name]["attention_mask"].sum()) for name in ("first", "second"))
    assert int(one.distillation_step.num_tokens(batch)) == expected


def test_duplicates_that_fill_up_a_batch_do_not_count():
    batch = BatchReader(tiny_model("bert"), shifted=False).read(collate(list(data()[0])), num_real=3)
    assert batch.row_mask.tolist() == batch.token_mask.tolist() == [True, True, True, False]
    assert int(batch.count("examples")) == 3
    assert len(batch.parts["second"].token_mask) == 8
    with pytest.raises(ValueError, match="first, second"):
        batch.take([0])


@pytest.mark.parametrize("dispatch_batches", [None, True, False])
def test_streams_of_parts_are_refused_where_they_would_be_cut_in_the_wrong_places(dispatch_batches):
    stream = data()[0].to_iterable_dataset()
    several = SimpleNamespace(num_processes=2, dispatch_batches=dispatch_batches)
    refuse_cut_parts(data()[0], several)
    refuse_cut_parts(stream, SimpleNamespace(num_processes=1, dispatch_batches=dispatch_batches))
    if dispatch_batches is False:
        refuse_cut_parts(stream, several)
    else:
        with pytest.raises(ValueError, match="dispatch_batches"):
            refuse_cut_parts(stream, several)


def flat(rows):
    return dict(tiny_tokenizer()([row["one"] for row in rows], padding=True, return_tensors="pt"))


def without_second(rows):
    return {"first": flat(rows)}


@pytest.mark.parametrize(
    ("losses", "collator", "says"),
    [
        ([TwoViews()], flat, "reads the part 'first' of a nested batch, but the collator made a flat batch"),
        ([TwoViews()], without_second, "reads the part 'second' .* made the parts first"),
        (["task", TwoViews()], collate, "'task' reads flat batches, but the collator made the parts first, second"),
    ],
)
def test_a_loss_that_does_not_go_with_the_collator_is_refused(tmp_path, losses, collator, says):
    with pytest.raises(ValueError, match=says):
        trainer(tmp_path, losses, data_collator=collator).train()


def means(prediction: EvalPrediction):
    return {"mean": float(prediction.predictions.mean()), "labels": float(prediction.label_ids.sum())}


def test_compute_metrics_gets_the_predictions_that_the_loss_makes(tmp_path):
    dataset = data(9)[0]  # the last batch has one example
    one = trainer(tmp_path, [Predicting()], dataset=dataset, eval_dataset=dataset, compute_metrics=means)
    found = one.evaluate()
    assert found["eval_mean"] == pytest.approx(found["eval_loss"], rel=1e-5)
    assert found["eval_labels"] == sum(range(8)) + 0


def test_predictions_that_no_loss_makes_are_an_error_that_names_the_losses(tmp_path):
    one = trainer(tmp_path, [TwoViews()], eval_dataset=data()[0], compute_metrics=means)
    with pytest.raises(ValueError, match="none of the losses makes some of a nested batch: TwoViews"):
        one.evaluate()


def test_a_batch_loss_takes_a_temperature_only_where_its_constructor_has_one(tmp_path):
    class Plugin:
        __name__ = "tempered"

        def register_losses(self, register):
            register("tempered", Tempered)
            register("plain", TwoViews)

    from hf_distill import hookimpl

    Plugin.register_losses = hookimpl(Plugin.register_losses)
    one = trainer(tmp_path, [{"name": "tempered", "temperature": 3.0}], plugins=[Plugin()])
    assert one.plan.losses[0].function.temperature == 3.0
    with pytest.raises(ValueError, match="it takes no temperature"):
        trainer(tmp_path, [{"name": "plain", "temperature": 3.0}], plugins=[Plugin()])
