"""AKL against forward KL."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

# The paper's students are pretrained. Shown beside the arms that are judged, whose students know nothing.
PRETRAINED = {"first_steps": 200, "steps": 100, "learning_rate": 5e-3}

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
        "pretrained, forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed, **PRETRAINED),
        "pretrained, AKL": lambda seed: distil_lm(["adaptive_kl"], seed=seed, plugins=["lm"], **PRETRAINED),
    },
    data=("stories260k", "tinystories_sample"),
)
