"""Variational information distillation against the labels alone."""

from __future__ import annotations

from .feature_losses import beside_labels

EXPERIMENT = beside_labels(
    "VID",
    ["vid"],
    method="Variational information distillation",
    components=("loss vid",),
    paper="Ahn et al. 2019, arXiv:1904.05835",
    what="The teacher's hidden states are predicted from the student's as a Gaussian with learnt variances. "
    "What the student cannot predict gets a large variance and counts less.",
    reference="section 4",
)
