"""Span relations beside text and forward KL."""

from __future__ import annotations

import functools

from datasets import Dataset
from hf_distill_lm.spans import span_ids
from transformers import default_data_collator

from hf_distill import LocalTeacher

from .frame import Arm, Experiment
from .language_models import measure_lm, new_student, teacher_model, text, tokenizer
from .training import train


@functools.cache
def rows() -> Dataset:
    """The training text with the phrase of each token."""

    def spans(row: dict[str, list[int]]) -> dict[str, list[int]]:
        pieces = [piece.replace("▁", " ") for piece in tokenizer().convert_ids_to_tokens(row["input_ids"])]
        pieces = ["\n" if piece.startswith("<") else piece for piece in pieces]  # bytes and special tokens
        ends = [len("".join(pieces[: index + 1])) for index in range(len(pieces))]
        offsets = [(end - len(piece), end) for piece, end in zip(pieces, ends, strict=True)]
        return {"span_ids": span_ids("".join(pieces), offsets)}

    return text()["train"].map(spans)


def arm(*losses: str) -> Arm:
    """An arm with these losses beside the text and forward KL, on the same rows."""

    def run(seed: int) -> dict[str, float]:
        student = new_student(seed=seed)
        budget = {"seed": seed, "steps": 300, "batch_size": 8, "learning_rate": 1e-2}
        teacher = LocalTeacher(teacher_model(), tokenizer=tokenizer())
        helpers = {"processing_class": tokenizer(), "data_collator": default_data_collator, "plugins": ["lm"]}
        train(student, ["task", "forward_kl", *losses], rows(), teacher=teacher, **budget, **helpers)
        return measure_lm(student)

    return run


EXPERIMENT = Experiment(
    method="Span relations (Multi-Granularity)",
    package="hf-distill-lm",
    components=("loss span_relation",),
    paper="Liu et al. 2024, arXiv:2407.10068",
    evidence="after the paper's description",
    what="The predictions of neighbouring tokens of a phrase are multiplied word by word, and student and teacher are "
    "to agree in the product. It is added to losses on single tokens.",
    needs="A teacher of the same vocabulary, and a column that says which tokens are of one phrase.",
    expects="lower cross-entropy of held-out text than without it",
    metric="cross_entropy",
    unit="nats a token",
    better="lower",
    baseline="text + forward KL",
    arm="with span relations",
    arms={"text + forward KL": arm(), "with span relations": arm("span_relation")},
    data=("stories260k", "tinystories_sample"),
    reference="ablation on Dolly",
)
