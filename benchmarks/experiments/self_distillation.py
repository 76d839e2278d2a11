"""Generations of self-distillation on handwritten digits, with the labels in every generation or in the first alone."""

from __future__ import annotations

from hf_distill_progressive.presets import generations

from hf_distill import TrainingData

from . import images
from .frame import Experiment
from .in_stages import run_stages

GENERATIONS, STEPS = 5, 100


def last_generation(alpha: float, *, seed: int) -> dict[str, float]:
    """Accuracy after all generations, each of which begins anew."""
    rows = TrainingData(images.some_of_each(images.data()["train"], 10, seed=seed))
    made: list[int] = []

    def student() -> object:
        made.append(seed + 100 * len(made))  # other weights in every generation
        return images.new_classifier("vit", images.SHAPES["student"]["vit"], seed=made[-1])

    stages = [{**stage, "data": rows} for stage in generations(steps=GENERATIONS, alpha=alpha, seed=seed)]
    model = run_stages(stages, student, seed=seed, steps=STEPS * GENERATIONS, plugins=["progressive"])
    return images.measure_images(model)


EXPERIMENT = Experiment(
    method="Self-distillation over generations",
    package="hf-distill-progressive",
    components=("loss label_mse", "loss probability_mse"),
    paper="Borup and Andersen 2021, arXiv:2102.13088",
    evidence="faithful",
    what="Each generation begins anew and learns from the one before. Labels in every generation keep the growing "
    "regularisation in bounds; without them the predictions of late generations fade.",
    needs="Labels; no other teacher.",
    expects="More right answers in the fifth generation than without labels after the first.",
    metric="accuracy",
    unit="share of 901",
    better="higher",
    baseline="labels at first only (0)",
    arm="labels always (0.35)",
    arms={
        "labels at first only (0)": lambda seed: last_generation(0.0, seed=seed),
        "labels always (0.35)": lambda seed: last_generation(0.35, seed=seed),
    },
    reference="Section 5",
)
