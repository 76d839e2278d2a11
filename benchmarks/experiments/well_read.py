"""Pre-trained distillation: pre-train, distil on texts without labels, finetune; with parts of it left out."""

from __future__ import annotations

from hf_distill_progressive.presets import well_read

from . import classifiers
from .frame import Experiment
from .in_stages import general_data, new_masked_lm, run_stages, task_data

STEPS = 150  # of each stage


def schedule(names: tuple[str, ...], *, seed: int) -> dict[str, float]:
    """Run the stages of these names and measure the student."""
    classifier = {"name": "BertForSequenceClassification", "num_labels": len(classifiers.intents())}
    stages = well_read(
        teacher=classifiers.teacher_model(),
        general=general_data(masked=True),
        transfer=task_data(100, seed=seed, labels=False),
        labelled=task_data(10, seed=seed),
        model_class=classifier,
    )
    chosen = [{key: value for key, value in stage.items() if key != "model_class"} for stage in stages]
    chosen = [stage for stage in chosen if stage["name"] in names]
    if "pretrain" in names:
        chosen[1]["model_class"] = classifier
    make = new_masked_lm if "pretrain" in names else classifiers.new_classifier
    student = run_stages(chosen, lambda: make(classifiers.STUDENT, seed=seed), seed=seed, steps=STEPS * len(chosen))
    return classifiers.measure_classifier(student)


EXPERIMENT = Experiment(
    method="Well-Read Students",
    package="hf-distill-progressive",
    paper="Turc et al. 2019, arXiv:1908.08962",
    evidence="after the paper's description",
    what="A small student is pre-trained as a masked language model, learns the teacher's soft labels on texts without "
    "labels, and is finetuned on the few that have them. Nothing but soft labels is taken from the teacher.",
    needs="Text for pre-training, texts like those of the task without labels, and a finetuned teacher.",
    expects="More right answers than pre-training and finetuning alone (each stage has 150 steps).",
    metric="accuracy",
    unit="share of 1,350",
    better="higher",
    baseline="pretrain, finetune",
    arm="pretrain, distil, finetune",
    arms={
        "finetune": lambda seed: schedule(("finetune",), seed=seed),
        "distil, finetune": lambda seed: schedule(("distil", "finetune"), seed=seed),
        "pretrain, finetune": lambda seed: schedule(("pretrain", "finetune"), seed=seed),
        "pretrain, distil, finetune": lambda seed: schedule(("pretrain", "distil", "finetune"), seed=seed),
    },
    data=("clinc150",),
    reference="the comparison of pre-trained distillation with finetuning",
)
