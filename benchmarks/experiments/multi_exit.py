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


def jointly(seed: int) -> dict[str, float]:
    """The exit of a deeper student, and its last one."""
    losses = ["task", {"name": "multi_exit", "exits": [1, EXIT, 3]}]
    shape = {"num_hidden_layers": DEPTH}
    trainer = classifiers.train_classifier(losses, seed=seed, shape=shape, plugins=["progressive"])
    last = classifiers.measure_classifier(trainer.student)["accuracy"]
    head = trainer.plan.losses[1].function.heads[f"exit{EXIT}"]
    return {"accuracy": accuracy_at_exit(trainer.student, head), "accuracy_of_last_exit": last}


@torch.no_grad()
def accuracy_at_exit(student: torch.nn.Module, head: torch.nn.Module) -> float:
    """The share of held-out examples that the exit gets right."""
    rows, collator = classifiers.data()["test"], DataCollatorWithPadding(classifiers.tokenizer())
    right = 0
    for start in range(0, len(rows), 128):
        batch = collator([rows[i] for i in range(start, min(start + 128, len(rows)))])
        hidden = student.bert(batch["input_ids"], batch["attention_mask"], output_hidden_states=True).hidden_states
        logits = head(pool(hidden[EXIT], batch["attention_mask"].bool(), "mean"))
        right += int((logits.argmax(-1) == batch["labels"]).sum())
    return right / len(rows)


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
