"""Sparse fine-tuning by a lottery ticket: train, keep the K largest changes, rewind, and train only these.

In stages, the first of which trains everything:

    stages:
      - {name: full, student: base, ...}
      - name: sparse
        student: {builder: lottery_ticket, from: base, tuned: {stage: full}, density: 0.08}

`difference` of the result and the base is the sparse vector; see `hf_distill_prune.differences`.
"""

from __future__ import annotations

import copy
import fnmatch
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill import DistillationTrainer, Plugins, Source, StudentBuild, load_student, transform

from .differences import added, largest_changes, load_difference
from .structures import layer_map_of

NAME = "mask_gradients"
_MASK, _HOOKED = "_is_trained", "_hf_distill_masked"


def lottery_ticket(
    teacher: PreTrainedModel,
    *,
    tuned: str,
    density: float | None = None,
    count: int | None = None,
    free: str | Sequence[str] | None = None,
) -> StudentBuild:
    """The model as before its fine-tuning, in which only the parameters are trained that fine-tuning changed most.

    Norms are frozen, as in the paper; what is outside the base model (a head) is trained whole, and not counted.
    Weight decay moves what has no gradient; a training with this plugin refuses it.

    Paper: Ansell et al. 2022 (LT-SFT), arXiv:2110.07560; as used by Ansell et al. 2023 (BiStil), arXiv:2306.01709.

    Args:
        teacher: before fine-tuning.
        tuned: folder or hub name of the same after it.
        density: of the parameters that may change, in (0, 1] ...
        count: ... or how many of them, K.
        free: patterns of parameters that are trained whole, in place of those outside the base model.

    Raises:
        ValueError: neither or both of density and count, one out of range, or models that do not fit each other.
    """
    if (density is None) == (count is None):
        raise ValueError(f"density is {density} and count {count}; expected one of the two.")
    if density is not None and not 0 < density <= 1:
        raise ValueError(f"density is {density}; expected a share of the parameters, in (0, 1].")
    student = copy.deepcopy(teacher).requires_grad_(True)  # a teacher in use is frozen
    names = [name for name, _ in student.named_parameters()]
    whole = _free(student, names, free)
    candidates = [name for name in names if name not in whole and not _is_norm(student, name)]
    before = {name: student.get_parameter(name).detach() for name in candidates}
    after = dict(load_student(tuned, plugins=["prune"]).named_parameters())
    if count is None:
        assert density is not None
        count = round(density * sum(one.numel() for one in before.values()))
    masks = largest_changes(after, before, count)
    transform(student, NAME, plugins=Plugins(["prune"]), parameters=[one for one in names if one not in whole])
    for name, mask in masks.items():
        student.get_buffer(name + _MASK).copy_(mask)
    mapping = {name: Source("mask" if name.endswith(_MASK) else "copy", (_without(name),)) for name in _state(student)}
    return StudentBuild(
        student.eval(), mapping, layer_map_of(teacher), {"num_sparse": count, "num_candidates": _size(before)}
    )


def mask_gradients(model: PreTrainedModel, *, parameters: Sequence[str]) -> None:
    """Give parameters a mask each, a buffer that is saved with the model: only what it marks has a gradient.

    A transform. All masks are False at first; `lottery_ticket` marks what is to be trained.

    Args:
        model: any.
        parameters: their names.

    Raises:
        ValueError: a parameter that the model does not have.
    """
    known = dict(model.named_parameters())
    if absent := [name for name in parameters if name not in known]:
        raise ValueError(
            f"{type(model).__name__} has no parameter {absent[0]!r}; names are like {next(iter(known))!r}."
        )
    for name in parameters:
        owner, _, leaf = name.rpartition(".")
        mask = torch.zeros(known[name].shape, dtype=torch.bool, device=known[name].device)
        model.get_submodule(owner).register_buffer(leaf + _MASK, mask)
    # Loading and copying make other parameters, which hooks on these ones would not see.
    model.register_forward_pre_hook(partial(_mask_in_backward, list(parameters)))


def add_differences(teacher: PreTrainedModel, *, differences: str | Sequence[str]) -> StudentBuild:
    """A stock model: the teacher and sparse differences of it, in sum (a language, a task ...).

    Args:
        teacher: the base of all differences.
        differences: files that `save_difference` wrote.

    Raises:
        ValueError: a difference that is not of this model.
    """
    files = [differences] if isinstance(differences, str) else list(differences)
    student = copy.deepcopy(teacher).requires_grad_(True)  # a teacher in use is frozen
    changed = [load_difference(file) for file in files]
    with torch.no_grad():
        for name, value in added(dict(student.named_parameters()), changed).items():
            student.get_parameter(name).copy_(value)
    there = {name for one in changed for name in one}
    mapping = {name: Source("add" if name in there else "copy", (name,)) for name in _state(student)}
    return StudentBuild(student.eval(), mapping, layer_map_of(teacher))


def refuse_weight_decay(trainer: DistillationTrainer) -> None:
    """Called as a training starts.

    Raises:
        ValueError: the student has masks, and weight decay would move what they hold.
    """
    decay = trainer.args.weight_decay
    if decay and any(name.endswith(_MASK) for name, _ in trainer.student.named_buffers()):
        raise ValueError(
            f"weight_decay is {decay}; it moves parameters that have no gradient, and so more than the sparse ones. "
            "Set it to 0."
        )


def _mask_in_backward(parameters: list[str], model: nn.Module, inputs: Any) -> None:
    for name in parameters:
        parameter = model.get_parameter(name)
        if parameter.requires_grad and not hasattr(parameter, _HOOKED):
            owner, _, leaf = name.rpartition(".")
            parameter.register_hook(partial(_masked, model.get_submodule(owner), leaf + _MASK))
            setattr(parameter, _HOOKED, True)


def _masked(owner: nn.Module, name: str, gradient: Tensor) -> Tensor:
    return gradient * owner.get_buffer(name)


def _free(model: PreTrainedModel, names: Sequence[str], patterns: str | Sequence[str] | None) -> set[str]:
    if patterns is None:
        prefix = f"{model.base_model_prefix}."
        return set() if model.base_model is model else {name for name in names if not name.startswith(prefix)}
    listed = [patterns] if isinstance(patterns, str) else patterns
    for pattern in listed:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"free: no parameter of {type(model).__name__} matches {pattern!r}; e.g. {names[0]!r}.")
    return {name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in listed)}


def _is_norm(model: nn.Module, name: str) -> bool:
    return type(model.get_submodule(name.rpartition(".")[0])).__name__.endswith("Norm")


def _state(model: nn.Module) -> list[str]:
    return list(model.state_dict())


def _without(name: str) -> str:
    return name.removesuffix(_MASK)


def _size(tensors: dict[str, Tensor]) -> int:
    return sum(one.numel() for one in tensors.values())
