"""DistiLLM-2's contrast against one divergence for all texts, on texts that teacher and student wrote."""

from __future__ import annotations

import functools
from typing import Any

from datasets import Dataset
from transformers import default_data_collator

from hf_distill import IGNORE_INDEX, LocalTeacher

from .frame import Arm, Experiment
from .language_models import measure_lm, teacher_model, tokenizer
from .samples import measure_samples, prompts, speaking_student, write, written_mask
from .training import train


@functools.cache
def written_rows(seed: int) -> Dataset:
    """Continuations of the same beginnings by both models, and who wrote them (0 the teacher, 1 the student)."""
    rows = []
    for source, model in enumerate((teacher_model(), speaking_student(seed))):
        texts = write(model, prompts("train", 256), seed=seed)
        labels = texts.masked_fill(~written_mask(texts), IGNORE_INDEX)
        for ids, own in zip(texts.tolist(), labels.tolist(), strict=True):
            rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": own, "source": source})
    return Dataset.from_list(rows)


def arm(loss: Any) -> Arm:
    """An arm that goes on from the same student, on the same texts."""

    def run(seed: int) -> dict[str, float]:
        student = speaking_student(seed)
        budget = {"seed": seed, "steps": 100, "batch_size": 16, "learning_rate": 5e-3}
        teacher = LocalTeacher(teacher_model(), tokenizer=tokenizer())
        helpers = {"processing_class": tokenizer(), "data_collator": default_data_collator, "plugins": ["lm"]}
        train(student, [loss], written_rows(seed), teacher=teacher, **budget, **helpers)
        return {**measure_lm(student), **measure_samples(student, seed=seed)}

    return run


EXPERIMENT = Experiment(
    method="DistiLLM-2",
    package="hf-distill-lm",
    components=("loss distillm2",),
    paper="Ko et al. 2025, arXiv:2503.07067",
    evidence="faithful",
    what="On texts of the teacher a skewed forward KL lifts what the teacher says, on texts of the student a skewed "
    "reverse KL takes away what only the student says.",
    needs="A teacher of the same vocabulary, texts of both models, and a column that says who wrote them.",
    expects="what the student writes is more likely for the teacher than after skewed KL on the same texts",
    metric="teacher_nll",
    unit="nats a token",
    better="lower",
    baseline="skewed KL",
    arm="DistiLLM-2",
    arms={"skewed KL": arm("skewed_kl"), "DistiLLM-2": arm("distillm2")},
    data=("stories260k", "tinystories_sample"),
)
