"""A middle exit of a student that is trained at all its exits, against a student of that depth trained alone."""

from __future__ import annotations

import torch
from hf_distill_progressive.multi_exit import pool
from transformers import DataCollatorWithPadding

from . import classifiers
from .frame import Experiment

DEPTH, EXIT = 4, 2


def alone(seed: int) -> dict[str, float]:
    """A student as deep as the exit."""
    trainer = classifiers.train_classifier(["task"], seed=seed, shape={"num_hidden_layers": EXIT})
    return classifiers.measure_classifier(trainer.student)


@torch.no_grad()
def jointly(seed: int) -> dict[str, float]:
    """The exit of a deeper student, and its last one."""
    losses = ["task", {"name": "multi_exit", "exits": [1, EXIT, 3]}]
    trainer = classifiers.train_classifier(
        losses, seed=seed, shape={"num_hidden_layers": DEPTH}, plugins=["progressive"]
    )
    student, loss = trainer.student, trainer.plan.losses[1].function
    rows, collator = classifiers.data()["test"], DataCollatorWithPadding(classifiers.tokenizer())
    right = 0
    for start in range(0, len(rows), 128):
        batch = collator([rows[i] for i in range(start, min(start + 128, len(rows)))])
        hidden = student.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True).hidden_states
        logits = loss.heads[f"exit{EXIT}"](pool(hidden[EXIT], batch["attention_mask"].bool(), "mean"))
        right += int((logits.argmax(-1) == batch["labels"]).sum())
    last = classifiers.measure_classifier(student)["accuracy"]
    return {"accuracy": right / len(rows), "accuracy_of_last_exit": last}


EXPERIMENT = Experiment(
    method="Multi-exit self-distillation",
    package="hf-distill-progressive",
    components=("loss multi_exit",),
    paper="ModularStarEncoder 2025, arXiv:2503.03008",
    evidence="after the paper's description",
    what="Heads on several blocks learn the task together, the deeper the more weight. Deep exits teach shallow ones "
    "through the blocks that they share; there is no divergence between exits.",
    needs="Labels; no teacher.",
    expects="More right answers at the second of four blocks than from a student of two blocks trained alone.",
    metric="accuracy",
    unit="share of 1,350",
    better="higher",
    baseline="two blocks alone",
    arm="exit at two of four blocks",
    arms={"two blocks alone": alone, "exit at two of four blocks": jointly},
    data=("clinc150",),
    reference="the comparison of exit 9 with single-exit training",
)
