"""ERNIE-Tiny's stages with the latent loss against its last stage alone, of the same number of steps."""

from __future__ import annotations

import functools
import gzip
import json
from typing import Any

from datasets import Dataset
from transformers import DataCollatorWithPadding

from . import classifiers
from .frame import SHARED, Experiment
from .training import remembered, train

STEPS = 300
LATENT = ["ernie_latent"]
TASK_SPECIFIC = ["task", "forward_kl", "ernie_latent"]


@functools.cache
def general_text() -> Dataset:
    """Texts of CLINC150 from the other seven domains, without labels."""
    splits = json.loads(gzip.decompress((SHARED / "clinc150" / "data_full.json.gz").read_bytes()))
    known = set(classifiers.intents())
    found = classifiers.tokenizer()([text for text, intent in splits["train"] if intent not in known])
    return Dataset.from_dict({name: found[name] for name in ("input_ids", "attention_mask")})


@remembered
def stages(losses: list[list[Any]], *, seed: int) -> dict[str, float]:
    """Train a student in equally long stages on general text, task text and task text, as many as there are losses."""
    task = classifiers.some_of_each(classifiers.data()["train"], 10, seed=seed)
    data = [general_text(), task, task][-len(losses) :]
    student = classifiers.new_classifier(classifiers.STUDENT, seed=seed)
    for stage, rows in zip(losses, data, strict=True):
        train(
            student,
            stage,
            rows,
            seed=seed,
            steps=STEPS // len(losses),
            batch_size=32,
            learning_rate=3e-3,
            teacher=classifiers.teacher_model(),
            plugins=["features"],
            data_collator=DataCollatorWithPadding(classifiers.tokenizer()),
        )
    return classifiers.measure_classifier(student)


EXPERIMENT = Experiment(
    method="ERNIE-Tiny's latent loss, in stages",
    package="hf-distill-features",
    components=("loss ernie_latent",),
    paper="Su et al. 2021, arXiv:2106.02241",
    evidence="after the paper's description",
    what="Attention scores and hidden states of the teacher are imitated layer by layer, on general text, then on the "
    "task's, then together with soft and hard labels. Each stage changes one of data, teacher and loss.",
    needs="A teacher of the same tokens, finetuned for the task; general text.",
    expects="more accuracy with few labels than by as many steps of the last stage alone",
    metric="accuracy",
    unit="share",
    better="higher",
    baseline="last stage alone",
    arm="three stages",
    arms={
        "last stage alone": lambda seed: stages([TASK_SPECIFIC], seed=seed),
        "last two stages": lambda seed: stages([LATENT, TASK_SPECIFIC], seed=seed),
        "three stages": lambda seed: stages([LATENT, LATENT, TASK_SPECIFIC], seed=seed),
        "soft and hard labels alone": lambda seed: stages([["task", "forward_kl"]], seed=seed),
    },
    data=("clinc150",),
)
