"""Growth and multi-level training as lists of stages, for `StagesDriver` and ``hf-distill stages``.

    stages: {preset: "hf_distill_weightmaps.presets:v_cycle", alpha: 0.5}

Data, steps and learning rates are the run's; `changes` gives a stage other ones by name. The run must name the plugin
`weightmaps`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Stages = list[dict[str, Any]]
Changes = Mapping[str, Mapping[str, Any]] | None


def bert2bert(
    *, grow: Mapping[str, Any], small: str | None = None, block: int = 3, seed: int = 0, changes: Changes = None
) -> Stages:
    """bert2BERT in two stages: sub-models of the grown student ("sub-models"), then all of it ("whole").

    After the paper's description: Chen et al. 2022, arXiv:2110.07143, with 5 epochs for the first stage and 35 for the
    second. The whole student needs its own number of steps: ``changes: {sub-models: {max_steps: 500}}``.

    Args:
        grow: options of the builder `grow`: hidden_size, layers, mode ...
        small: folder or hub name of what is grown; the run's student where not given.
        block: blocks that are trained at a time in the first stage; below the student's depth.
        seed: of the sub-models.
        changes: further fields of stages, by their name.
    """
    origin = {"stage": "initial"} if small is None else small
    stages: Stages = [
        {
            "name": "sub-models",
            "student": {"builder": "grow", "from": origin, **grow},
            "losses": ["task", {"name": "sub_models", "block": block, "seed": seed}],
        },
        {"name": "whole", "losses": ["task"]},
    ]
    return _changed(stages, changes)


def v_cycle(
    *,
    levels: int = 2,
    alpha: float = 0.25,
    depth: str = "adjacent",
    coalesce: Mapping[str, Any] | None = None,
    changes: Changes = None,
) -> Stages:
    """Train big for a short while, coalesce, train small, and go on big with a mixture of the two.

    With two levels the stages are "level-1", "level-2", "level-1-again"; with three "level-1", "level-2", "level-3",
    "level-2-again", "level-1-again". Paper: Zou et al. 2024, arXiv:2404.07999. Its example for GPT-2 has
    5,000 steps big, 50,000 small at 4 times the learning rate, 50,000 big, and alpha at 0.5.

    Args:
        levels: how many sizes, at least 2.
        alpha: share of the small model in the mixture.
        depth: which blocks are averaged, see `coalesce`.
        coalesce: other options of the builder `coalesce`; half the width and half the blocks by default.
        changes: further fields of stages, by their name.

    Raises:
        ValueError: fewer than two levels.
    """
    if levels < 2:
        raise ValueError(f"levels is {levels}; a cycle has at least 2.")
    stages: Stages = [{"name": "level-1", "losses": ["task"]}]
    for level in range(2, levels + 1):
        source = {"builder": "coalesce", "from": {"stage": f"level-{level - 1}"}, "depth": depth, **(coalesce or {})}
        stages.append({"name": f"level-{level}", "student": source, "losses": ["task"]})
    for level in range(levels - 1, 0, -1):
        mixture = {"builder": "interpolate", "from": {"stage": "previous"}, "onto": {"stage": f"level-{level}"}}
        student = {**mixture, "alpha": alpha, "depth": depth}
        stages.append({"name": f"level-{level}-again", "student": student, "losses": ["task"]})
    return _changed(stages, changes)


def _changed(stages: Stages, changes: Changes) -> Stages:
    names = [stage["name"] for stage in stages]
    for name in changes or {}:
        if name not in names:
            raise ValueError(f"changes names the stage {name!r}; there are {', '.join(names)}.")
    return [{**stage, **(changes or {}).get(stage["name"], {})} for stage in stages]
