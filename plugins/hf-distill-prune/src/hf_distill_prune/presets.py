"""Schedules as lists of stages, for `StagesDriver` and for ``stages: {preset: ...}`` of `hf-distill stages`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Stages = list[dict[str, Any]]


def gradual(
    *,
    teacher: str,
    speed_ups: Sequence[float],
    texts: str | Sequence[str],
    losses: Sequence[Any] = ("task", "forward_kl", "hidden_mse"),
    pruning: Mapping[str, Any] | None = None,
) -> Stages:
    """ZipLM's one gradual run for a family of speed-ups; plugin `prune`.

    Each stage prunes the student of the stage before to its speed-up and trains what is left: on the labels, on the
    teacher's distributions, and on its hidden states after every block, token by token (the width never changes, so
    nothing is projected). The student of each stage is one of the family. After the paper's description: Kurtic et al.
    2023, arXiv:2302.04089; the weights of the losses are not known and are 1 here.

    Args:
        teacher: folder or hub name of the finetuned model, which is pruned, and is the teacher of all stages.
        speed_ups: over the teacher, rising.
        texts: files to calibrate with.
        losses: of all stages.
        pruning: other options of `ziplm`.

    Raises:
        ValueError: speed-ups that do not rise.
    """
    if not speed_ups or list(speed_ups) != sorted(set(speed_ups)):
        raise ValueError(f"speed_ups is {list(speed_ups)}; expected numbers that rise, as [1.5, 2, 3].")
    student = {"builder": "ziplm", "texts": texts, **(pruning or {})}
    return [
        {
            "name": f"speed-up-{speed_up:g}",
            "student": {**student, "from": {"stage": "previous"} if index else teacher, "speed_up": speed_up},
            "teacher": teacher,
            "losses": list(losses),
        }
        for index, speed_up in enumerate(speed_ups)
    ]
