from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from hf_distill.rounds.classification import TextClassification
from hf_distill.testing import tiny_model, tiny_tokenizer

from .round_script import LABELS, make_rows

ROWS = make_rows(dict.fromkeys(LABELS, 12), seed=0)
VALIDATION = make_rows(dict.fromkeys(LABELS, 8), seed=1)
QUICK = {"use_cpu": True, "dataloader_pin_memory": False, "disable_tqdm": True, "per_device_train_batch_size": 8}
FRESH = {"fresh": {"hidden_size": 16, "layers": 1, "vocab_size": 320}}


def make_task(student=FRESH, *, epochs=1, learning_rate=1e-2, **options):
    training = {**QUICK, "num_train_epochs": epochs, "learning_rate": learning_rate}
    return TextClassification(student, labels=LABELS, validation=VALIDATION, training=training, **options)


def created(task, folder):
    folder.mkdir()
    task.create(folder, ROWS)
    return folder


@pytest.fixture
def pretrained(tmp_path):
    """An encoder without a classifier's head, with its tokenizer."""
    folder = tmp_path / "pretrained"
    tiny_model("bert_mlm", num_hidden_layers=4).base_model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_the_defaults_are_those_of_the_paper():
    task = TextClassification("x", labels=LABELS, validation=VALIDATION)
    assert (task.training["num_train_epochs"], task.training["per_device_train_batch_size"]) == (30, 64)
    assert (task.training["learning_rate"], task.early_stopping, task.max_length) == (2e-5, 5, 512)


def test_early_stopping_saves_the_best_epoch_instead_of_the_last(tmp_path):
    losses = []

    class Watch(TrainerCallback):
        def on_evaluate(self, args, state, control, metrics, **_):
            losses.append(metrics["eval_loss"])

    task = make_task(epochs=20, learning_rate=0.02, early_stopping=3, callbacks=lambda title: [Watch()])
    # What is learned is wrong here, so that the loss has to rise in the end.
    task.validation = [{**row, "label": LABELS[LABELS.index(row["label"]) - 1]} for row in VALIDATION]
    task.fit(created(task, tmp_path / "start"), ROWS, tmp_path / "end", seed=0, title="", first=True)
    assert len(losses) < 20
    assert losses[-1] > min(losses) * 1.001
    assert losses.index(min(losses)) == len(losses) - 4, "three epochs of patience"
    assert task.open(tmp_path / "end").report(task.validation).loss == pytest.approx(min(losses), rel=1e-4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["end", "start"]
    assert not list((tmp_path / "end").glob("*.bin"))


def test_later_rounds_are_trained_as_round_training_says(tmp_path):
    task = make_task(epochs=3, early_stopping=None, round_training={"num_train_epochs": 1, "learning_rate": 0.0})
    start = created(task, tmp_path / "start")
    task.fit(start, ROWS, tmp_path / "first", seed=0, title="", first=True)
    task.fit(tmp_path / "first", ROWS, tmp_path / "second", seed=1, title="", first=False)
    weights = [
        (folder / "model.safetensors").read_bytes() for folder in (start, tmp_path / "first", tmp_path / "second")
    ]
    assert weights[0] != weights[1]
    assert weights[1] == weights[2]


def test_a_pretrained_encoder_gets_a_head_for_the_classes_and_keeps_its_weights(pretrained, tmp_path):
    task = make_task(pretrained)
    folder = created(task, tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert model.config.id2label == dict(enumerate(LABELS))
    source = tiny_model("bert_mlm", num_hidden_layers=4).base_model.state_dict()
    for name, value in source.items():
        assert torch.equal(model.base_model.state_dict()[name], value), name
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tiny_tokenizer().get_vocab()
    again = created(make_task(pretrained), tmp_path / "again")
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes(), "the head is new"


def test_a_builder_makes_a_smaller_student(pretrained, tmp_path):
    task = make_task({"model": str(pretrained), "builder": "layer_drop", "layers": 2})
    model = task.open(created(task, tmp_path / "student")).model
    assert (model.config.num_hidden_layers, model.config.num_labels) == (2, 3)


def test_the_prediction_for_a_text_does_not_depend_on_the_other_texts(tmp_path):
    task = make_task()
    student = task.open(created(task, tmp_path / "student"))
    texts = [row["text"] for row in ROWS] + ["dog " * 40, "x"]
    together = student.log_probabilities(texts)
    for position in (0, 17, 36, 37):
        alone = student.log_probabilities([texts[position]])
        torch.testing.assert_close(together[position], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together.exp().sum(-1), torch.ones(len(texts)))
    predictions = student.predict(ROWS)
    assert [LABELS.index(label) for label in predictions.labels] == together[: len(ROWS)].argmax(-1).tolist()
    assert student.predict([]).labels == ()


def test_the_report_is_that_of_the_predictions(tmp_path):
    task = make_task()
    student = task.open(created(task, tmp_path / "student"))
    report, predictions = student.report(VALIDATION), student.predict(VALIDATION)
    right = [label == row["label"] for label, row in zip(predictions.labels, VALIDATION, strict=True)]
    assert report.accuracy == pytest.approx(sum(right) / len(right))
    found = student.log_probabilities([row["text"] for row in VALIDATION])
    target = torch.tensor([LABELS.index(row["label"]) for row in VALIDATION])
    assert report.loss == pytest.approx(torch.nn.functional.nll_loss(found, target).item())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["one"]}, "at least two names"),
        ({"labels": ["one", "one"]}, "each once"),
        ({"training": {"output_dir": "x"}}, "training sets output_dir, which the rounds decide"),
        ({"round_training": {"epochs": 1}}, "training has no field 'epochs'"),
    ],
)
def test_mistakes_are_found_before_a_run(options, message):
    with pytest.raises(ValueError, match=message):
        TextClassification(FRESH, **{"labels": LABELS, "validation": VALIDATION, **options})
