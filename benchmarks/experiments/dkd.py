"""Decoupled KD against the usual one."""

from __future__ import annotations

from .classification import against_kd, classifier_arm

WARM_UP = {"start": 0.0, "end": 1.0, "fraction": 20 / 240}

EXPERIMENT = against_kd(
    "labels + DKD",
    "task",
    {"name": "dkd", "temperature": 4.0, "weight": WARM_UP},
    others={
        "labels + DKD, standardised": classifier_arm(
            "task",
            {
                **{"name": "dkd", "temperature": 2.0, "standardize": True},
                "weight": {"start": 0.0, "end": 9.0, "fraction": 20 / 240},
            },
        ),
    },
    method="DKD",
    components=("loss dkd",),
    paper="Zhao et al. 2022, arXiv:2203.08679",
    what="The usual divergence is split in two: how likely the right class is, and how the others are to each other. "
    "The second part is hidden where the teacher is sure; here it has a weight of its own.",
    needs="Labels and a teacher of the same classes.",
    expects="more accuracy with few labels than by labels and the usual divergence",
    reference="CIFAR-100 and ImageNet",
)
