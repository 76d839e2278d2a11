"""SCRG against plain on-policy distillation: the same loss on corrected and on uncorrected texts of the student."""

from __future__ import annotations

from transformers import default_data_collator

from hf_distill import LocalTeacher

from .frame import Arm, Experiment
from .language_models import measure_lm, teacher_model, text, tokenizer
from .samples import PROMPT, measure_samples, speaking_student
from .training import train


def arm(generator: str) -> Arm:
    """An arm whose student writes all of its training texts."""

    def run(seed: int) -> dict[str, float]:
        student = speaking_student(seed)
        train(
            student,
            ["forward_kl"],
            text()["train"],
            **{"seed": seed, "steps": 40, "batch_size": 8, "learning_rate": 5e-3},
            teacher=LocalTeacher(teacher_model(), tokenizer=tokenizer()),
            processing_class=tokenizer(),
            data_collator=default_data_collator,
            plugins=["lm"],
            generator={"name": generator, "share": 1.0, "prompt_tokens": PROMPT, "max_new_tokens": 48},
        )
        return {**measure_lm(student), **measure_samples(student, seed=seed)}

    return run


EXPERIMENT = Experiment(
    method="SCRG (Multi-Granularity)",
    package="hf-distill-lm",
    components=("generator scrg",),
    paper="Liu et al. 2024, arXiv:2407.10068",
    evidence="after the paper's description",
    what="The student writes, and where it differs most from the teacher, the teacher's token takes the place of its "
    "own; it writes on from there. It then learns on the corrected text.",
    needs="A teacher of the same vocabulary that runs in the loop; about twice the time of on-policy generation.",
    expects="nearer to the teacher than on uncorrected texts of the student",
    metric="forward_kl",
    unit="nats a token",
    better="lower",
    baseline="on-policy",
    arm="SCRG",
    arms={"on-policy": arm("on_policy"), "SCRG": arm("scrg")},
    data=("stories260k", "tinystories_sample"),
    reference="ablation on Dolly",
)
