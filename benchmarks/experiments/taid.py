"""TAID against forward KL to the whole teacher."""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

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
    },
    data=("stories260k", "tinystories_sample"),
)
