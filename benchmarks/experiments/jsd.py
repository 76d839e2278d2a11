"""Generalised Jensen-Shannon divergence against forward KL, on fixed text, for a student that knows it already."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

FINETUNED = {"first_steps": 300, "steps": 150, "learning_rate": 5e-3}

EXPERIMENT = Experiment(
    method="Jensen-Shannon divergence",
    package="hf-distill",
    components=("loss jsd",),
    paper="Agarwal et al. 2024 (GKD), arXiv:2306.13649",
    evidence="faithful",
    what="Both distributions are compared with their mixture, which lies between forward KL (beta near 0) and reverse "
    "KL (beta near 1). A student that cannot follow everywhere may then leave out what is unlikely.",
    needs="A teacher of the same vocabulary.",
    expects="lower reverse KL to the teacher than by forward KL, at the price of a higher forward KL",
    metric="reverse_kl",
    unit="nats a token",
    better="lower",
    baseline="forward KL",
    arm="JSD",
    arms={
        "forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed, **FINETUNED),
        "JSD": lambda seed: distil_lm([{"name": "jsd", "beta": 0.5}], seed=seed, **FINETUNED),
    },
    data=("stories260k", "tinystories_sample"),
)
