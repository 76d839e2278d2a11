"""Correlations of predictions against their divergence."""

from __future__ import annotations

from .classification import against_kd

EXPERIMENT = against_kd(
    "labels + DIST",
    "task",
    {"name": "dist", "beta": 2.0, "gamma": 2.0, "temperature": 4.0},
    method="DIST",
    components=("loss dist",),
    paper="Huang et al. 2022, arXiv:2205.10536",
    what="Predictions are to correlate with the teacher's, over the classes of an example and over the examples of a "
    "class. The student need not reach the probabilities of a teacher that is much surer than it.",
    needs="A teacher of the same classes.",
    expects="more accuracy with few labels than by labels and KD",
    reference="CIFAR-100 and ImageNet",
)
