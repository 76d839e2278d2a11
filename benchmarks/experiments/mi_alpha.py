"""MI-alpha of Distiller against the squared error of hidden states."""

from __future__ import annotations

from .feature_losses import beside_labels, classifier_arm

EXPERIMENT = beside_labels(
    "MI-0.5",
    [{"name": "mi_alpha", "layers": "last_of_block", "pooling": "first"}],
    others={
        "labels + hidden MSE": classifier_arm("hidden_mse"),
        "labels + hidden cosine": classifier_arm("hidden_cosine"),
    },
    method="MI-alpha (Distiller)",
    components=("loss mi_alpha",),
    paper="He et al. 2021, arXiv:2109.11105",
    evidence="after the paper's description",
    what="A lower bound of the mutual information between the student's and the teacher's view of an example is made "
    "as large as it will go. Alpha mixes a bound of low variance (1) with an unbiased one (0).",
    expects="more accuracy with few labels than by the squared error of the same layers",
    baseline="labels + hidden MSE",
)
