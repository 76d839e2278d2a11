"""Contrastive representation distillation against the labels alone."""

from __future__ import annotations

from transformers import DataCollatorWithPadding

from . import classifiers
from .feature_losses import beside_labels
from .training import train


def contrast(seed: int) -> dict[str, float]:
    """The arm with CRD: `classifiers.train_classifier`, with a column that numbers the examples."""
    rows = classifiers.some_of_each(classifiers.data()["train"], 10, seed=seed)
    rows = rows.add_column("example_id", range(len(rows)))
    student = classifiers.new_classifier(classifiers.STUDENT, seed=seed)
    crd = {"name": "crd", "weight": 0.8, "num_examples": len(rows), "pooling": "first"}
    trainer = train(
        student,
        ["task", crd],
        rows,
        seed=seed,
        steps=300,
        batch_size=32,
        learning_rate=3e-3,
        teacher=classifiers.teacher_model(),
        plugins=["features"],
        data_collator=DataCollatorWithPadding(classifiers.tokenizer()),
    )
    return classifiers.measure_classifier(trainer.student)


EXPERIMENT = beside_labels(
    "CRD",
    [],
    others={"labels + CRD": contrast},
    method="Contrastive representation distillation",
    components=("loss crd",),
    paper="Tian et al. 2020, arXiv:1910.10699",
    what="Student and teacher are to recognise each other's vector of an example among those of many others. "
    "A memory holds the last vectors of all training examples.",
    needs="A teacher model, and a column that numbers the training examples.",
    reference="tables 1 and 2",
)
