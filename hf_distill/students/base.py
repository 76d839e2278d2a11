"""What building a student gives, and `build_student`, through which every builder runs.

    build = build_student("big-model", "layer_drop", layers=6)
    build.model.save_pretrained("student")

A builder is a function ``builder(teacher, **options) -> StudentBuild``. It may copy tensors, combine them (then the
mapping says with which operator), or read a checkpoint tensor by tensor; `build_student` only looks at what it returns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..plugins import Plugins

LayerMap = Sequence[int | None] | Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class Source:
    """Where one tensor of a student came from.

    Attributes:
        operator: "copy", "random", "mean", or whatever a builder calls its way of combining.
        tensors: names of the teacher's tensors that went in, in order; none where the operator needs none.
        part: which part of them, in the builder's own words ("rows 0:64"); empty where they went in whole.
    """

    operator: str
    tensors: tuple[str, ...] = ()
    part: str = ""


@dataclass
class StudentBuild:
    """A student and how it came to be.

    Attributes:
        model: the student, in eval mode.
        mapping: the source of every tensor in the student's state dict.
        layer_map: for each block of the student the block of the teacher that it was made from, None where none was;
            of an encoder-decoder one such list for "encoder" and one for "decoder"; None where no block has any.
            Feature losses compare these blocks by default (`hf_distill.blocks.match_layers`).
        record: what was done, as JSON-serialisable values; `build_student` fills it in, builders may add to it.
    """

    model: PreTrainedModel
    mapping: Mapping[str, Source]
    layer_map: LayerMap | None
    record: dict[str, Any] = field(default_factory=dict)


def build_student(
    teacher: PreTrainedModel | str | os.PathLike[str],
    builder: str | Callable[..., StudentBuild] = "layer_drop",
    *,
    plugins: Plugins | None = None,
    model_class: type[PreTrainedModel] | None = None,
    dtype: str | torch.dtype = "auto",
    **options: Any,
) -> StudentBuild:
    """Build a student from a teacher.

    The student's configuration says how it was built (``config.hf_distill``: builder, options, layer_map), and keeps
    saying so after `save_pretrained` and `from_pretrained`.

    Args:
        teacher: a model, or the folder or hub name of one.
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
    if not isinstance(teacher, PreTrainedModel):
        model_class = model_class or architecture(AutoConfig.from_pretrained(teacher), teacher)
        teacher = model_class.from_pretrained(teacher, dtype=dtype)
    if callable(builder):
        name, package = getattr(builder, "__name__", type(builder).__name__), None
        build = builder(teacher, **options)
    else:
        plugins = plugins or Plugins()
        name, package = builder, plugins.students.get(builder).package
        build = plugins.students.create(builder, options)(teacher)
    _check_coverage(name, build)
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


def architecture(config: PretrainedConfig, name: str | os.PathLike[str]) -> type[PreTrainedModel]:
    """The model class that a saved configuration names.

    Raises:
        ValueError: it names none, or one that transformers does not have.
    """
    class_name = (config.architectures or [""])[0]
    found: type[PreTrainedModel] | None = getattr(transformers, class_name, None)
    if found is None:
        raise ValueError(f"{str(name)!r} is of class {class_name!r}, which transformers lacks; pass model_class=...")
    return found


def _check_coverage(name: str, build: StudentBuild) -> None:
    tensors, mapped = set(build.model.state_dict()), set(build.mapping)
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
