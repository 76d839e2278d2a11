"""Schedules as lists of stages, for `StagesDriver` and for ``stages: {preset: ...}`` of `hf-distill stages`.

    driver = StagesDriver(ernie_tiny(pretrained=..., finetuned=..., general=..., task=...), plugins=["features"], ...)

All of them leave numbers (steps, learning rates, batch sizes) to the run; `changes` gives a stage other ones by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Stages = list[dict[str, Any]]
Changes = Mapping[str, Mapping[str, Any]] | None


def ernie_tiny(
    *,
    pretrained: Any,
    finetuned: Any,
    general: Any,
    task: Any,
    latent: str | Mapping[str, Any] = "ernie_latent",
    changes: Changes = None,
) -> Stages:
    """ERNIE-Tiny's four stages, each of which changes one of teacher, data and losses; plugin `features`.

    The projections of the latent loss go on through all stages. After the paper's description: Su et al. 2021,
    arXiv:2106.02241; the form of the latent loss is a reading (see `ernie_latent`).

    Args:
        pretrained: the teacher of general distillation.
        finetuned: the teacher from then on.
        general: data of the first two stages, labels not needed.
        task: data of the last two, with labels.
        latent: the latent loss.
        changes: further fields of stages, by their name.
    """
    stages = [
        {"name": "general", "teacher": pretrained, "data": general, "losses": [latent]},
        {"name": "general-enhanced", "teacher": finetuned, "data": general, "losses": [latent]},
        {"name": "task-adaptive", "teacher": finetuned, "data": task, "losses": [latent]},
        {"name": "task-specific", "teacher": finetuned, "data": task, "losses": [latent, "forward_kl", "task"]},
    ]
    return _changed(stages, changes)


def well_read(
    *, teacher: Any, general: Any, transfer: Any, labelled: Any, model_class: Any, changes: Changes = None
) -> Stages:
    """Pre-trained distillation: masked language model, then the teacher's soft labels, then the labels.

    Soft labels alone, at temperature 1, on texts without labels; forward KL has the gradient of their cross-entropy.
    After the paper's description: Turc et al. 2019, "Well-Read Students Learn Better", arXiv:1908.08962.

    Args:
        teacher: finetuned on the task.
        general: data for the student's own pre-training, of masked tokens.
        transfer: texts like those of the task, without labels.
        labelled: the task.
        model_class: of the classifier that takes over from the language model, see `Stage.model_class`.
        changes: further fields of stages, by their name.
    """
    stages = [
        {"name": "pretrain", "data": general, "losses": ["task"]},
        {
            **{"name": "distil", "data": transfer, "teacher": teacher, "losses": ["forward_kl"]},
            "model_class": model_class,
        },
        {"name": "finetune", "data": labelled, "losses": ["task"]},
    ]
    return _changed(stages, changes)


def generations(*, steps: int = 5, alpha: float | Sequence[float] = 0.35, seed: int = 0) -> Stages:
    """Self-distillation: each generation begins anew and has the one before as its teacher; plugin `progressive`.

    The first generation learns from labels alone, later ones from ``alpha`` times the labels and ``1 - alpha`` times
    the generation before. Paper: Borup and Andersen 2021, arXiv:2102.13088. Each stage has a seed of its own, so that a
    student that is made (a function, a builder without a seed) is another one in each generation, as in the paper; one
    that is loaded begins with the same weights.

    Args:
        steps: how many generations.
        alpha: weight of the labels, one for all generations after the first, or one for each.
        seed: of the first generation.

    Raises:
        ValueError: weights out of range, or of another number.
    """
    alphas = [float(alpha)] * (steps - 1) if isinstance(alpha, (int, float)) else list(alpha)
    if len(alphas) != steps - 1 or not all(0 <= weight <= 1 for weight in alphas):
        raise ValueError(f"alpha is {alpha}; expected a weight from 0 to 1, or {steps - 1} of them.")
    stages: Stages = [{"name": "generation-0", "losses": ["label_mse"], "seed": seed}]
    for index, weight in enumerate(alphas, start=1):
        losses = [{"name": "label_mse", "weight": weight}, {"name": "probability_mse", "weight": 1 - weight}]
        stages.append(
            {
                **{"name": f"generation-{index}", "losses": losses, "seed": seed + index},
                **{"student": {"stage": "initial"}, "teacher": {"stage": "previous"}},
            }
        )
    return stages


def _changed(stages: Stages, changes: Changes) -> Stages:
    names = [stage["name"] for stage in stages]
    for name in changes or {}:
        if name not in names:
            raise ValueError(f"changes names the stage {name!r}; there are {', '.join(names)}.")
    return [{**stage, **(changes or {}).get(stage["name"], {})} for stage in stages]
