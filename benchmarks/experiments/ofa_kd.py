"""OFA-KD against plain distillation, from convolutions to a transformer, on digits."""

from __future__ import annotations

from .frame import Experiment
from .images import distil_images

EXPERIMENT = Experiment(
    method="OFA-KD",
    package="hf-distill-features",
    components=("loss ofa_kd",),
    paper="Hao et al. 2023, arXiv:2310.19444",
    evidence="faithful",
    what="Branches map each stage of the student to logits, the space that all architectures share, and learn from the "
    "teacher's predictions as the head does. The target class may count for more; branches are not exported.",
    needs="Labels and a teacher of the same classes; its architecture does not matter.",
    expects="more accuracy than by forward KL at the head alone, where the architectures differ",
    metric="accuracy",
    unit="share",
    better="higher",
    baseline="labels + forward KL",
    arm="labels + OFA-KD",
    arms={
        "labels": lambda seed: distil_images(["task"], seed=seed),
        "labels + forward KL": lambda seed: distil_images(["task", "forward_kl"], seed=seed),
        "labels + OFA-KD": lambda seed: distil_images(["task", "ofa_kd"], seed=seed, plugins=["features"]),
    },
    reference="table 2 (CIFAR-100)",
)
