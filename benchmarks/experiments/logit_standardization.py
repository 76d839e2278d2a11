"""Standardised logits against plain ones."""

from __future__ import annotations

from .classification import against_kd

EXPERIMENT = against_kd(
    "labels + KD, standardised",
    {"name": "task", "weight": 0.1},
    {"name": "standardized_kl", "temperature": 2.0, "weight": 9.0},
    method="Logit standardisation",
    components=("loss standardized_kl",),
    paper="Sun et al. 2024, arXiv:2403.01427",
    what="Row by row, the logits of both models lose their mean and are divided by their deviation before the softmax. "
    "The student learns the relations of the teacher's logits, not their size.",
    needs="A teacher of the same classes.",
    expects="more accuracy with few labels than by labels and KD on plain logits",
    reference="CIFAR-100 and ImageNet, with KD and other losses on logits",
)
