"""ERNIE-Tiny's four stages against its first and last alone, of the same number of steps."""

from __future__ import annotations

from hf_distill_progressive.presets import ernie_tiny

from . import classifiers
from .frame import Experiment
from .in_stages import general_data, pretrained_teacher, run_stages, task_data

STEPS = 300


def schedule(names: tuple[str, ...], *, seed: int) -> dict[str, float]:
    """Run the stages of these names and measure the student."""
    stages = ernie_tiny(
        pretrained=pretrained_teacher(),
        finetuned=classifiers.teacher_model(),
        general=general_data(),
        task=task_data(10, seed=seed),
    )
    student = run_stages(
        [stage for stage in stages if stage["name"] in names],
        lambda: classifiers.new_classifier(classifiers.STUDENT, seed=seed),
        seed=seed,
        steps=STEPS,
        plugins=["features"],
    )
    return classifiers.measure_classifier(student)


FOUR = ("general", "general-enhanced", "task-adaptive", "task-specific")

EXPERIMENT = Experiment(
    method="ERNIE-Tiny's four stages",
    package="hf-distill-progressive",
    paper="Su et al. 2021, arXiv:2106.02241",
    evidence="after the paper's description",
    what="The student imitates the pretrained teacher on general text, then the finetuned one, then that on the task's "
    "text, then its labels, too. Each stage changes exactly one of teacher, data and losses.",
    needs="A pretrained and a finetuned teacher, general text, and the package hf-distill-features.",
    expects="More right answers than two stages, the first and the last, of the same steps.",
    metric="accuracy",
    unit="share of 1,350",
    better="higher",
    baseline="two stages",
    arm="four stages",
    arms={
        "two stages": lambda seed: schedule(("general", "task-specific"), seed=seed),
        "four stages": lambda seed: schedule(FOUR, seed=seed),
    },
    data=("clinc150",),
    reference="the ablation of stages",
)
