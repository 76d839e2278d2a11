"""The Multi-Level framework's V-cycle against training the big model alone, at equal cost."""

from __future__ import annotations

import tempfile
from typing import Any

from experiments.frame import Experiment
from experiments.in_stages import DEFAULTS
from experiments.language_models import measure_lm, text
from hf_distill_weightmaps.presets import v_cycle
from transformers import PreTrainedModel, default_data_collator

from hf_distill import StagesDriver, TrainingData, load_student

from . import stories

# In steps of the big model, of whose 491,520 parameters that multiply a token (head included) the small one has 79,872.
BUDGET, FIRST, AGAIN = 120, 12, 84
SMALL_COST = 79_872 / 491_520
SMALL_STEPS = round((BUDGET - FIRST - AGAIN) / SMALL_COST)


def cycle(seed: int, alpha: float) -> dict[str, float]:
    """The figures of the big model after a V-cycle; both sizes at the learning rate that suits them best alone."""
    # The paper's example warms up for all of the first stage, and not at all in the others.
    changes = {
        "level-1": {"max_steps": FIRST, "warmup_steps": FIRST, "lr_scheduler_type": "constant_with_warmup"},
        "level-2": {"max_steps": SMALL_STEPS},
        "level-1-again": {"max_steps": AGAIN},
    }
    stages = v_cycle(alpha=alpha, changes=changes)
    data = TrainingData(text()["train"], collator=default_data_collator)
    with tempfile.TemporaryDirectory() as folder:
        student = stories.new_model(stories.BIG, seed=seed)
        driver = StagesDriver(
            [{**stage, "data": data} for stage in stages],
            student=student,
            output_dir=folder,
            plugins=["weightmaps"],
            defaults={
                **DEFAULTS,
                "seed": seed,
                "per_device_train_batch_size": 8,
                "learning_rate": stories.LEARNING_RATE,
            },
        )
        return measure_lm(load_student(driver.run().folder).eval())


def alone(seed: int) -> dict[str, float]:
    """The figures of the big model after as many steps as cost the same."""
    model: PreTrainedModel = stories.new_model(stories.BIG, seed=seed)
    return measure_lm(stories.fit(model, BUDGET, seed=seed))


ARMS: dict[str, Any] = {
    "big alone": alone,
    "V-cycle, alpha 0.5": lambda seed: cycle(seed, 0.5),
}

EXPERIMENT = Experiment(
    method="Multi-Level, V-cycle",
    package="hf-distill-weightmaps",
    components=("student decoalesce", "student interpolate"),
    paper="Zou et al. 2024, arXiv:2404.07999",
    evidence="faithful",
    what=f"{FIRST} steps big, {SMALL_STEPS} at half the width and half the blocks, {AGAIN} big with a mixture: "
    f"as much computing as {BUDGET} steps big.",
    needs="Nothing but text.",
    expects="lower cross-entropy of held-out text than by the big model alone, at equal cost",
    metric="cross_entropy",
    unit="nats a token",
    better="lower",
    baseline="big alone",
    arm="V-cycle, alpha 0.5",
    arms=ARMS,
    data=("stories260k", "tinystories_sample"),
)
