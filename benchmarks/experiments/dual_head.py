"""Labels at one head and logits at another, against both at one."""

from __future__ import annotations

from .classification import LABELS, PLAIN, classifier_arm
from .frame import Experiment

BINARY = {"name": "binary_kl", "temperature": 2.0}
SECOND = {"name": "dual_head", "temperature": 2.0, "hidden_width": 200}

EXPERIMENT = Experiment(
    method="Dual-Head KD",
    package="hf-distill-classification",
    components=("loss dual_head", "loss binary_kl"),
    paper="Yang et al. 2024, arXiv:2411.08937",
    evidence="faithful",
    what="The teacher's logits are taught at a second head, which is thrown away afterwards. "
    "Where its gradient opposes that of the labels, the opposing part is taken out.",
    needs="Labels and a teacher of the same classes; whole gradients for the alignment, so no ZeRO.",
    expects="more accuracy with few labels than with both losses at one head",
    metric="accuracy",
    unit="share of 1,350",
    better="higher",
    baseline="labels + logits, one head",
    arm="labels + logits, two heads, aligned",
    arms={
        "labels": LABELS,
        "logits": classifier_arm(BINARY),
        "labels + KD": classifier_arm(*PLAIN),
        "labels + logits, one head": classifier_arm("task", BINARY),
        "labels + logits, two heads": classifier_arm("task", SECOND),
        "labels + logits, two heads, aligned": classifier_arm("task", {**SECOND, "gradient_alignment": True}),
    },
    data=("clinc150",),
    reference="CIFAR-100 and ImageNet",
)
