"""Similarity-preserving KD against the labels alone."""

from __future__ import annotations

from .feature_losses import beside_labels, classifier_arm

EXPERIMENT = beside_labels(
    "similarities",
    [{"name": "similarity_preserving", "weight": 3000.0, "pooling": "first"}],
    others={
        "the same, a hundredth of the weight": classifier_arm(
            {"name": "similarity_preserving", "weight": 30.0, "pooling": "first"}
        )
    },
    method="Similarity-preserving KD",
    components=("loss similarity_preserving",),
    paper="Tung and Mori 2019, arXiv:1907.09682",
    what="Pairs of examples that excite the teacher alike are to excite the student alike. "
    "The matrices of inner products within a batch are compared, each row scaled to length one.",
    reference="section 4",
)
