"""Distillation as such: the teacher's whole distribution beside the text."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

EXPERIMENT = Experiment(
    method="Forward KL",
    package="hf-distill",
    components=("loss forward_kl",),
    paper="Hinton et al. 2015, arXiv:1503.02531",
    evidence="faithful",
    what="The student learns the teacher's whole distribution, not only the token that was written. "
    "Logits of both may be divided by a temperature, and the value is multiplied by its square.",
    needs="A teacher of the same vocabulary.",
    expects="lower cross-entropy of held-out text than by learning from the text alone",
    metric="cross_entropy",
    unit="nats a token",
    better="lower",
    baseline="cross-entropy",
    arm="cross-entropy + forward KL",
    arms={
        "cross-entropy": lambda seed: distil_lm(["task"], seed=seed),
        "cross-entropy + forward KL": lambda seed: distil_lm(
            [{"name": "task", "weight": 0.5}, {"name": "forward_kl", "weight": 0.5}], seed=seed
        ),
        "forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed),
    },
    data=("stories260k", "tinystories_sample"),
    reference="section 3",
)
