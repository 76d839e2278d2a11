"""`build_student`, through which every builder runs.

    build = build_student("big-model", "layer_drop", layers=6)
    build.model.save_pretrained("student")

A builder is a function of the teacher and its options. One that is marked `shape_only` returns a `Blueprint`, which is
filled from the teacher's tensors one by one, straight from the files where the teacher is given by name. Any other gets
the whole teacher and returns a `StudentBuild`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..plugins.manager import Plugins
from .blueprint import Blueprint, Source, StudentBuild, is_shape_only
from .configs import new_model
from .opening import open_weights
from .transforms import load_student
from .weights import ModelWeights, Weights, is_partitioned, whole_weights

logger = logging.get_logger(__name__)


def build_student(
    teacher: PreTrainedModel | str | os.PathLike[str],
    builder: str | Callable[..., StudentBuild | Blueprint] = "layer_drop",
    *,
    plugins: Plugins | Iterable[str | object] | None = None,
    model_class: type[PreTrainedModel] | None = None,
    dtype: str | torch.dtype = "auto",
    **options: Any,
) -> StudentBuild:
    """Build a student from a teacher.

    The student's configuration says how it was built (``config.hf_distill``: builder, options, layer_map), and keeps
    saying so after `save_pretrained` and `from_pretrained`. It is made whole where ZeRO-3 is on, too: on every process
    that calls this, for the trainer to cut up.

    Args:
        teacher: a model, or the folder or hub name of one; of the latter a builder that is `shape_only` reads one
            tensor at a time, so that the peak of memory is the student and the largest thing that its sources combine.
        builder: a registered name or a function of the teacher.
        plugins: where builders are registered; the built-in ones where not given.
        model_class: class of a teacher given by name, where its checkpoint's own is not the one wanted.
        dtype: of a teacher given by name; "auto" is that of its checkpoint.
        options: of the builder; JSON-serialisable.

    Raises:
        ValueError: unknown builder or option, options that JSON cannot hold, or a builder whose mapping does not
            cover the student.
    """
    try:
        json.dumps(options)
    except TypeError as error:
        raise ValueError(f"The options of a builder are saved with the student; JSON cannot hold {options}.") from error
    if not isinstance(teacher, (PreTrainedModel, str, os.PathLike)):
        raise ValueError(
            f"The teacher is a {type(teacher).__name__}; expected a model of transformers, or the folder or hub name "
            "of one. Take it out of wrappers (PEFT: merge_and_unload; DDP: .module) first."
        )
    function: Callable[..., Any]
    if callable(builder):
        name, package, function = getattr(builder, "__name__", type(builder).__name__), None, builder
        build_from: Callable[..., StudentBuild | Blueprint] = partial(builder, **options)
    else:
        plugins = Plugins.of(plugins)
        component = plugins.students.get(builder)
        name, package, function = builder, component.package, component.resolve()
        build_from = plugins.students.create(builder, options)
    with whole_weights():
        if is_shape_only(function):
            teacher, weights = open_weights(teacher, model_class=model_class, dtype=dtype)
        else:
            teacher = _whole(teacher, model_class, dtype, plugins)
            weights = ModelWeights(teacher)
        built = build_from(teacher)
        build = _fill(name, built, teacher, weights) if isinstance(built, Blueprint) else built
    _check_coverage(name, build.model, build.mapping)
    # A builder may have applied transforms, which left their note already.
    note = getattr(build.model.config, "hf_distill", {})
    build.model.config.hf_distill = {**note, "builder": name, "options": options, "layer_map": build.layer_map}
    build.record |= {
        "builder": name,
        "package": package,
        "options": options,
        "layer_map": build.layer_map,
        "teacher": {
            "name": teacher.name_or_path,
            "class": type(teacher).__name__,
            "config_sha256": _digest(teacher.config),
        },
        "num_parameters": {"teacher": teacher.num_parameters(), "student": build.model.num_parameters()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    return build


def _whole(
    teacher: PreTrainedModel | str | os.PathLike[str],
    model_class: type[PreTrainedModel] | None,
    dtype: str | torch.dtype,
    plugins: Plugins | Iterable[str | object] | None,
) -> PreTrainedModel:
    if not isinstance(teacher, PreTrainedModel):
        return load_student(teacher, plugins=plugins, model_class=model_class, dtype=dtype)
    if any(map(is_partitioned, teacher.parameters())):
        raise ValueError(
            f"ZeRO-3 has cut {type(teacher).__name__} over the processes, and this builder needs it whole; give the "
            "folder or name that it was loaded from, or load it before the training arguments are made."
        )
    return teacher


def _fill(name: str, blueprint: Blueprint, teacher: PreTrainedModel, weights: Weights) -> StudentBuild:
    """Build what a blueprint describes, one tensor at a time."""
    student = new_model(teacher, blueprint.config, model_class=blueprint.model_class, seed=blueprint.seed)
    tensors = student.state_dict()
    _check_coverage(name, student, blueprint.mapping)
    mapping = dict(blueprint.mapping)
    for target, source in mapping.items():
        if not source.tensors and source.function is None:
            continue
        absent = [one for one in source.tensors if one not in weights]
        if absent:
            logger.warning(f"The teacher has no values of {', '.join(absent)}; {target} of the student is random.")
            mapping[target] = Source("random")
            continue
        value = _evaluate(source, [weights[one] for one in source.tensors])
        if value.shape != tensors[target].shape:
            raise ValueError(
                f"Builder {name!r} makes {target} {tuple(value.shape)} by {source.operator!r} from "
                f"{', '.join(source.tensors) or 'nothing'}; the student's is {tuple(tensors[target].shape)}."
            )
        tensors[target].copy_(value)
    if blueprint.generation_config is not None:
        student.generation_config = blueprint.generation_config
    return StudentBuild(student, mapping, blueprint.layer_map, blueprint.record, blueprint.tokenizer)


def _evaluate(source: Source, tensors: list[Tensor]) -> Tensor:
    if source.function is None:
        (tensor,) = tensors
        return tensor
    with torch.no_grad():
        wide = [one.to(torch.promote_types(one.dtype, torch.float32)) if one.is_floating_point() else one
                for one in tensors]  # fmt: skip
        return source.function(*wide)


def _check_coverage(name: str, student: PreTrainedModel, mapping: Mapping[str, Source]) -> None:
    tensors, mapped = set(student.state_dict()), set(mapping)
    if tensors != mapped:
        raise ValueError(
            f"The mapping of builder {name!r} must have one entry per tensor of the student; "
            f"missing: {sorted(tensors - mapped)}, of no tensor: {sorted(mapped - tensors)}."
        )


def _digest(config: PretrainedConfig) -> str:
    values = {
        key: value for key, value in config.to_dict().items() if key not in ("_name_or_path", "transformers_version")
    }
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
