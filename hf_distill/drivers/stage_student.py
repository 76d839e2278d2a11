"""The student as a stage begins: from where, of which class, changed how, and which of its parameters are trained."""

from __future__ import annotations

import copy
import difflib
import fnmatch
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel, TrainingArguments
from transformers.utils import logging

from ..plugins.manager import Plugins
from ..plugins.registry import did_you_mean
from ..students import build_student, load_student, transform
from ..students.weights import whole_weights
from ..training.loss_state import ATTRIBUTE, FILE
from ..training.plan import Plan
from .stage_spec import Stage

logger = logging.get_logger(__name__)


def make_start(
    stage: Stage,
    source: Any,
    *,
    args: TrainingArguments,
    teachers: Sequence[Any],
    plugins: Plugins,
    plugin_names: Sequence[Any],
    labels: Sequence[str] | None,
) -> PreTrainedModel:
    """The student of `source` in the class and with the transforms of the stage, on the CPU, in one process.

    Args:
        stage: what is asked for.
        source: a folder or hub name, a model, a function that makes one, or what a builder takes (and where it builds
            "from", if not from the stage's teacher).
        args: of the stage; their seed decides weights that are new.
        teachers: of the stage, for builders.
        plugins: where builders and transforms are registered.
        plugin_names: what `plugins` was made from.
        labels: names of the classes, for a new head.

    Raises:
        ValueError: no source, an unknown class, or a builder or transform that refuses.
    """
    with whole_weights(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(args.seed)
        model: Any
        if source is None:
            raise ValueError(f"There is no student for the first stage {stage.name!r}; give student.")
        if isinstance(source, nn.Module):
            model = copy.deepcopy(source)  # transforms change it
        elif callable(source):
            model = source()
        elif isinstance(source, (str, Path)):
            model = load_student(source, plugins=plugins, **_class_options(stage, labels))
        elif "from" in source:
            options = {key: value for key, value in source.items() if key != "from"}
            model = build_student(source["from"], plugins=plugins, **options).model
        else:
            model = Plan(args, teacher=list(teachers) or None, plugins=plugin_names).make_student(source)
        if stage.model_class is not None and not isinstance(source, (str, Path)):
            raise ValueError(
                f"model_class of the stage {stage.name!r} is for a student that was saved; this one is made there, as "
                f"{type(model).__name__}."
            )
        for options in stage.transforms:
            transform(model, plugins=plugins, **options)
    made: PreTrainedModel = model
    return made


def _class_options(stage: Stage, labels: Sequence[str] | None) -> dict[str, Any]:
    """What `load_student` is told of the class."""
    if stage.model_class is None:
        return {}
    options = {"name": stage.model_class} if isinstance(stage.model_class, str) else dict(stage.model_class)
    name = str(options.pop("name", None))
    found = getattr(transformers, name, None)
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        hint = did_you_mean(name, [one for one in dir(transformers) if "For" in one])
        raise ValueError(f"model_class of the stage {stage.name!r} is {name!r}, which transformers lacks{hint}.")
    names: dict[str, Any] = {}
    if labels is not None:
        names["id2label"] = dict(enumerate(labels))
        names["label2id"] = {label: index for index, label in enumerate(labels)}
    return {"model_class": found, **names, **options}


def train_only(model: nn.Module, patterns: Sequence[str] | None, *, stage: str) -> None:
    """Freeze the parameters that no pattern matches; those that losses own are always trained.

    Raises:
        ValueError: a pattern that matches no parameter.
    """
    own = {name: p for name, p in model.named_parameters() if not name.startswith(f"{ATTRIBUTE}.")}
    if patterns is None:
        return
    for pattern in patterns:
        if not fnmatch.filter(own, pattern):
            near = difflib.get_close_matches(pattern, own, n=3, cutoff=0.3) or list(own)[:3]
            raise ValueError(
                f"trainable of the stage {stage!r}: no parameter of {type(model).__name__} matches {pattern!r}. "
                f"Names are like {', '.join(near)}."
            )
    for name, parameter in own.items():
        parameter.requires_grad_(any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def carry_over(model: nn.Module, folder: Path, *, stage: str) -> list[str]:
    """Give losses the parameters that losses of the same label ended the stage of `folder` with; gives the labels.

    Buffers, which keep time and statistics of one training, begin anew.

    Raises:
        ValueError: a loss has parameters of other names or shapes than its namesake had.
    """
    losses = getattr(model, ATTRIBUTE, None)
    if losses is None or not (folder / FILE).is_file():
        return []
    saved = load_file(folder / FILE)
    carried = []
    for label, loss in losses.items():
        own = dict(loss.named_parameters())
        kept = {name: saved[f"{label}.{name}"] for name in own if f"{label}.{name}" in saved}
        if not own or not any(name.startswith(f"{label}.") for name in saved):
            continue
        if {k: v.shape for k, v in kept.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError(
                f"The loss {label!r} of the stage {stage!r} has other parameters than in the stage before: "
                f"{_shapes(own)} instead of {_shapes(kept)}. To begin with new ones, give it another label: "
                f"{{name: ..., label: {label}_2}}."
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(kept[name])
        carried.append(label)
    return carried


def is_transformed(folder: Path) -> bool:
    """Whether a saved student needs `load_student`."""
    path = folder / "config.json"
    return path.is_file() and bool(json.loads(path.read_text()).get("hf_distill", {}).get("transforms"))


def _shapes(tensors: Any) -> str:
    return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items()) or "none"
