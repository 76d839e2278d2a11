"""AKL against forward KL."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

EXPERIMENT = Experiment(
    method="Adaptive KL",
    package="hf-distill-lm",
    components=("loss adaptive_kl",),
    paper="Wu et al. 2024, arXiv:2404.02657",
    evidence="faithful",
    what="Forward KL teaches what is likely first, reverse KL what is unlikely. Each is weighed, token by token, by "
    "how wrong the student is there.",
    needs="A teacher of the same vocabulary.",
    expects="lower cross-entropy of held-out text than by forward KL, in as few steps",
    metric="cross_entropy",
    unit="nats a token",
    better="lower",
    baseline="forward KL",
    arm="AKL",
    arms={
        "forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed),
        "AKL": lambda seed: distil_lm(["adaptive_kl"], seed=seed, plugins=["lm"]),
        "reverse KL": lambda seed: distil_lm(["reverse_kl"], seed=seed),
    },
    data=("stories260k", "tinystories_sample"),
)
