"""FIRST against the labels alone, where these are few: is the student as sure as it is right?"""

from __future__ import annotations

from .classifiers import distil_classifier
from .frame import Experiment

EXPERIMENT = Experiment(
    method="FIRST",
    package="hf-distill-lm",
    components=("loss first",),
    paper="Shum et al. 2024, arXiv:2408.12168",
    evidence="faithful",
    what="The teacher's five largest probabilities are made less certain and taught; a cache need hold no more. "
    "The student becomes accurate without becoming too sure of itself.",
    needs="A teacher of the same classes or vocabulary, or a cache of its five most likely ones.",
    expects="lower calibration error than by training on the labels",
    metric="ece",
    unit="share",
    better="lower",
    baseline="labels",
    arm="FIRST",
    arms={
        "labels": lambda seed: distil_classifier(["task"], seed=seed, plugins=["lm"]),
        "FIRST": lambda seed: distil_classifier(["first"], seed=seed, plugins=["lm"]),
        "FIRST, c = 0.3": lambda seed: distil_classifier(
            [{"name": "first", "calibration_temperature": 0.3}], seed=seed, plugins=["lm"]
        ),
        "forward KL": lambda seed: distil_classifier(["forward_kl"], seed=seed, plugins=["lm"]),
    },
    data=("clinc150",),
)
