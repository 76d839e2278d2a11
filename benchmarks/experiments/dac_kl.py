"""DAC-KL against forward KL."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

EXPERIMENT = Experiment(
    method="DAC-KL (Multi-Granularity)",
    package="hf-distill-lm",
    components=("loss dac_kl",),
    paper="Liu et al. 2024, arXiv:2407.10068",
    evidence="after the paper's description",
    what="A small network chooses, token by token, which part of the teacher's distribution is taught. "
    "It learns along with the student to leave out what the student cannot follow.",
    needs="A teacher of the same vocabulary, and labels.",
    expects="lower cross-entropy of held-out text than by forward KL",
    metric="cross_entropy",
    unit="nats a token",
    better="lower",
    baseline="text + forward KL",
    arm="text + DAC-KL",
    arms={
        "text + forward KL": lambda seed: distil_lm(["task", "forward_kl"], seed=seed),
        "text + DAC-KL": lambda seed: distil_lm(["task", "dac_kl"], seed=seed, plugins=["lm"]),
    },
    data=("stories260k", "tinystories_sample"),
    reference="ablation on Dolly",
)
