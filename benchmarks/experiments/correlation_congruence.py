"""Correlation congruence against the labels alone."""

from __future__ import annotations

from .feature_losses import beside_labels, classifier_arm

EXPERIMENT = beside_labels(
    "congruence",
    # The weight of similarity-preserving KD, a mean square of matrices of the same size, too.
    [{"name": "correlation_congruence", "weight": 3000.0, "pooling": "first"}],
    others={
        "the same, a hundredth of the weight": classifier_arm(
            {"name": "correlation_congruence", "weight": 30.0, "pooling": "first"}
        )
    },
    method="Correlation congruence",
    components=("loss correlation_congruence",),
    paper="Peng et al. 2019, arXiv:1904.01802",
    what="A Gaussian kernel between the examples of a batch is to be the teacher's. "
    "It is expanded to second order, which needs no more than inner products.",
    reference="section 4",
)
