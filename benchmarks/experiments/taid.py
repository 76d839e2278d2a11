"""TAID against forward KL to the whole teacher."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

# The paper's students are pretrained. Shown beside the arms that are judged, whose students know nothing.
PRETRAINED = {"first_steps": 200, "steps": 100, "learning_rate": 5e-3}

EXPERIMENT = Experiment(
    method="TAID",
    package="hf-distill-lm",
    components=("loss taid",),
    paper="Shing et al. 2025, arXiv:2501.16937",
    evidence="faithful",
    what="The teacher of the loss begins near the student and moves to the real one over the run, faster while the "
    "loss falls. A student far smaller than its teacher is never asked for more than the next step.",
    needs="A teacher of the same vocabulary.",
    expects="nearer to the teacher than by forward KL, in as many steps",
    metric="forward_kl",
    unit="nats a token",
    better="lower",
    baseline="forward KL",
    arm="TAID",
    arms={
        "forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed),
        "TAID": lambda seed: distil_lm(["taid"], seed=seed, plugins=["lm"]),
        # The published alpha is without effect in 300 steps; this one is as large as the linear way is fast.
        "TAID, larger alpha": lambda seed: distil_lm([{"name": "taid", "alpha": 0.01}], seed=seed, plugins=["lm"]),
        "pretrained, forward KL": lambda seed: distil_lm(["forward_kl"], seed=seed, **PRETRAINED),
        "pretrained, TAID": lambda seed: distil_lm(["taid"], seed=seed, plugins=["lm"], **PRETRAINED),
    },
    data=("stories260k", "tinystories_sample"),
)
