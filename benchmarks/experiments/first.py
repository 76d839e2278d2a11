"""FIRST against going on with the text alone: is the student as sure as it is right?"""

from __future__ import annotations

from .frame import Experiment
from .language_models import distil_lm

# Five classes of a student that knows nothing have almost no probability: it must be able to speak.
FINETUNED = {"first_steps": 200, "steps": 150, "learning_rate": 5e-3}

EXPERIMENT = Experiment(
    method="FIRST",
    package="hf-distill-lm",
    components=("loss first",),
    paper="Shum et al. 2024, arXiv:2408.12168",
    evidence="faithful",
    what="The teacher's five largest probabilities are made less certain and taught; a cache need hold no more. "
    "The student becomes accurate without becoming too sure of itself.",
    needs="A teacher of the same vocabulary, or a cache of its five likely tokens.",
    expects="lower calibration error than by fine-tuning on the text",
    metric="ece",
    unit="share",
    better="lower",
    baseline="cross-entropy",
    arm="FIRST",
    arms={
        "cross-entropy": lambda seed: distil_lm(["task"], seed=seed, **FINETUNED),
        "FIRST": lambda seed: distil_lm(["first"], seed=seed, plugins=["lm"], **FINETUNED),
        "FIRST, c = 0.3": lambda seed: distil_lm(
            [{"name": "first", "calibration_temperature": 0.3}], seed=seed, plugins=["lm"], **FINETUNED
        ),
    },
    data=("stories260k", "tinystories_sample"),
)
