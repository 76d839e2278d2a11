"""Relational KD against the labels alone."""

from __future__ import annotations

from .feature_losses import beside_labels, classifier_arm

DISTANCE = {"name": "rkd_distance", "weight": 25.0, "pooling": "first"}
ANGLE = {"name": "rkd_angle", "weight": 50.0, "pooling": "first"}

EXPERIMENT = beside_labels(
    "RKD",
    [DISTANCE, ANGLE],
    others={
        "labels + distances": classifier_arm(DISTANCE),
        "labels + angles": classifier_arm(ANGLE),
    },
    method="Relational KD",
    components=("loss rkd_distance", "loss rkd_angle"),
    paper="Park et al. 2019, arXiv:1904.05068",
    what="Examples of a batch are to be as far apart, and at the same angles, as the teacher has them. "
    "Only relations are compared, so that widths and scales may differ.",
    reference="tables of section 4.2",
)
