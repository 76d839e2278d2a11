"""Hybrid Distillation against each of its two teachers alone: a linear probe on features learnt without labels."""

from __future__ import annotations

import functools
from typing import Any

import torch
from sklearn.linear_model import LogisticRegression
from transformers import BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling, DataCollatorWithPadding

from . import classifiers
from .frame import Experiment
from .training import remembered, train

# The paper's weight is not known to us. Of 1, 0.1 and 0.01, tried on a seed of its own, 1 lets the relations drown the
# features.
RELATIONS = {"name": "hybrid_relations", "teacher": "masked", "weight": 0.1}
FEATURES = {"name": "hybrid_features", "teacher": "supervised"}


@functools.cache
def masked_teacher() -> BertForMaskedLM:
    """A model of the supervised teacher's shape that learnt to fill in masked words of the training texts."""
    torch.manual_seed(0)
    sizes = {"vocab_size": len(classifiers.tokenizer()), "max_position_embeddings": 64, "pad_token_id": 0}
    teacher = BertForMaskedLM(BertConfig(**sizes, **classifiers.TEACHER))
    rows = classifiers.data()["train"].remove_columns("labels")
    collator = DataCollatorForLanguageModeling(classifiers.tokenizer(), seed=0)
    train(teacher, ["task"], rows, seed=0, steps=400, batch_size=32, learning_rate=1e-3, data_collator=collator)
    return teacher


@remembered
def probe(losses: list[dict[str, Any]], *, seed: int) -> dict[str, float]:
    """Distil features on texts without labels; the accuracy of a linear classifier on them, 10 labels an intent."""
    student = classifiers.new_classifier(classifiers.STUDENT, seed=seed)
    rows = classifiers.data()["train"]
    teachers = {"masked": masked_teacher(), "supervised": classifiers.teacher_model()}
    named = {spec["teacher"] for spec in losses}
    train(
        student,
        losses,
        rows.remove_columns("labels"),
        seed=seed,
        steps=200,
        batch_size=32,
        learning_rate=3e-3,
        teacher=[{"name": name, "model": model} for name, model in teachers.items() if name in named],
        plugins=["features"],
        data_collator=DataCollatorWithPadding(classifiers.tokenizer()),
    )
    few, test = classifiers.some_of_each(rows, 10, seed=seed), classifiers.data()["test"]
    classifier = LogisticRegression(max_iter=200).fit(embed(student, few), few["labels"])
    return {"accuracy": float(classifier.score(embed(student, test), test["labels"]))}


@torch.no_grad()
def embed(student: Any, rows: Any) -> Any:
    """The mean of the last hidden states over the tokens, normalised, as an array ``[examples, H]``."""
    collator, found = DataCollatorWithPadding(classifiers.tokenizer()), []
    for start in range(0, len(rows), 128):
        batch = collator([rows[i] for i in range(start, min(start + 128, len(rows)))])
        hidden = student.bert(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"][:, :, None]
        found.append(torch.nn.functional.layer_norm((hidden * mask).sum(1) / mask.sum(1), hidden.shape[-1:]))
    return torch.cat(found).numpy()


EXPERIMENT = Experiment(
    method="Hybrid Distillation",
    package="hf-distill-features",
    components=("loss hybrid_relations", "loss hybrid_features"),
    paper="Shi et al. 2023, arXiv:2306.15876",
    evidence="after the paper's description",
    what="Relations between tokens come from a teacher that learnt to fill in what is masked, features from one that "
    "learnt from labels or by contrast. Tokens that say what others say may be left out of both.",
    needs="Two teachers that see the same tokens.",
    expects="a linear classifier on the student's features is better than with features from the one teacher alone",
    metric="accuracy",
    unit="share",
    better="higher",
    baseline="features alone",
    arm="relations and features",
    arms={
        "relations alone": lambda seed: probe([RELATIONS], seed=seed),
        "features alone": lambda seed: probe([FEATURES], seed=seed),
        "relations and features": lambda seed: probe([RELATIONS, FEATURES], seed=seed),
        "relations and features of equal weight": lambda seed: probe(
            [{**RELATIONS, "weight": 1.0}, FEATURES], seed=seed
        ),
        "relations and features without 30 % of the tokens": lambda seed: probe(
            [{**RELATIONS, "masking": 0.3}, {**FEATURES, "masking": 0.3}], seed=seed
        ),
    },
    data=("clinc150",),
)
