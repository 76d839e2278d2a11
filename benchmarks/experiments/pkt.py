"""Probabilistic knowledge transfer against the labels alone."""

from __future__ import annotations

from .feature_losses import beside_labels, classifier_arm

EXPERIMENT = beside_labels(
    "PKT",
    [{"name": "pkt", "weight": 30000.0, "pooling": "first"}],
    others={
        "the same, a hundredth of the weight": classifier_arm({"name": "pkt", "weight": 300.0, "pooling": "first"})
    },
    method="Probabilistic knowledge transfer",
    components=("loss pkt",),
    paper="Passalis and Tefas 2018, arXiv:1803.10837",
    what="Each example's similarities to the others of its batch, scaled to a distribution, are to be the teacher's. "
    "The similarity is the cosine, moved to between 0 and 1.",
    reference="section 4",
)
