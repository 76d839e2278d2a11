"""Changing the modules of a model in place, in a way that survives saving and loading.

    transform(model, "low_rank", plugins=plugins, rank=8)
    model.save_pretrained("student")
    model = load_student("student", plugins=plugins)

A transform is a function ``(model, **options) -> None``, registered with kind "transform". What was applied stands in
``config.hf_distill["transforms"]``; `load_student` applies it again to a model without weights, then loads them.
`from_pretrained` alone does not: it builds the stock model and leaves out, with a warning, what it has no place for.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..plugins import Plugins
from .opening import architecture

_HUB_OPTIONS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code")


def transform(model: PreTrainedModel, name: str, *, plugins: Plugins | None = None, **options: Any) -> None:
    """Apply the transform `name` to `model`, in place, and write it into the model's configuration.

    The modules that a transform makes may depend on shapes and options only. When the model is loaded again, it runs on
    parameters that have no values yet (device "meta"); what it computes from values belongs into parameters or
    persistent buffers, which are loaded. It leaves alone the configuration that the stock model is built from, except
    to untie a head that it replaces.

    Args:
        model: what to change.
        name: of a registered transform.
        plugins: where transforms are registered; the built-in ones where not given.
        options: of the transform; JSON-serialisable.

    Raises:
        ValueError: unknown transform or option, or options that JSON cannot hold.
    """
    try:
        json.dumps(options)
    except TypeError as error:
        raise ValueError(f"The options of a transform are saved with the model; JSON cannot hold {options}.") from error
    plugins = plugins or Plugins()
    plugins.transforms.create(name, options)(model)
    for parameter in model.parameters():
        # As it will be when it is read back; products with another layout round differently.
        parameter.data = parameter.data.contiguous()
    done = getattr(model.config, "hf_distill", {})
    spec = {"name": name, "options": options, "package": plugins.transforms.get(name).package}
    model.config.hf_distill = {**done, "transforms": [*done.get("transforms", []), spec]}


def load_student(
    path: str | os.PathLike[str],
    *,
    plugins: Plugins | None = None,
    model_class: type[PreTrainedModel] | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a student, with the transforms that were applied to it; a plain one simply through `from_pretrained`.

    Args:
        path: folder or hub name.
        plugins: where transforms are registered; the built-in ones where not given.
        model_class: where the class that the checkpoint names is not the one wanted.
        options: of `from_pretrained`: dtype, device_map, revision ...

    Raises:
        ValueError: a transform is not registered, or the weights do not fit what the transforms made.
    """
    config = AutoConfig.from_pretrained(path, **{key: options[key] for key in _HUB_OPTIONS if key in options})
    model_class = model_class or architecture(config, path)
    transforms = getattr(config, "hf_distill", {}).get("transforms", [])
    if not transforms:
        plain: PreTrainedModel = model_class.from_pretrained(path, **options)
        return plain
    plugins = plugins or Plugins()
    for spec in transforms:
        if spec["name"] not in plugins.transforms:
            raise ValueError(
                f"{str(path)!r} was made with the transform {spec['name']!r} of {spec['package']}; "
                "install that plugin and activate it: load_student(..., plugins=Plugins([...]))."
            )
    skeleton, buffers = _skeleton(model_class, transforms, plugins)
    model: Any
    model, report = skeleton.from_pretrained(path, output_loading_info=True, **options)
    if report["missing_keys"] or report["unexpected_keys"]:
        raise ValueError(
            f"The weights in {str(path)!r} do not fit what its transforms made; missing: "
            f"{sorted(report['missing_keys'])}, without a place: {sorted(report['unexpected_keys'])}. "
            "Is it the version of the plugin that saved them?"
        )
    for name, value in buffers.items():
        model.get_buffer(name).copy_(value)
    model.__class__ = model_class
    loaded: PreTrainedModel = model
    return loaded


def _skeleton(
    model_class: type[PreTrainedModel], transforms: Sequence[dict[str, Any]], plugins: Plugins
) -> tuple[Any, dict[str, Tensor]]:
    """A model class whose models are born transformed, and the values of the buffers that no checkpoint holds.

    Going through `from_pretrained` of a class, rather than filling a finished model, leaves shards, dtypes, devices,
    tied weights and checkpoints in an older layout to transformers.
    """
    buffers: dict[str, Tensor] = {}

    def build(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        # Kept alive, or a buffer made below could get the id of one that it replaces.
        stock = {id(buffer): buffer for buffer in self.buffers()}
        with _ordinary_tensors():
            for spec in transforms:
                plugins.transforms.create(spec["name"], spec["options"])(self)
        # from_pretrained leaves buffers outside the state dict uninitialised, but for those that it knows how to make.
        saved = self.state_dict()
        for name, buffer in self.named_buffers():
            if name in saved or id(buffer) in stock:
                continue
            if buffer.is_meta:
                raise ValueError(f"A transform makes the buffer {name!r} from parameters; register it as persistent.")
            buffers[name] = buffer

    namespace = {"__init__": build, "__module__": model_class.__module__}
    return type(model_class.__name__, (model_class,), namespace), buffers


@contextlib.contextmanager
def _ordinary_tensors() -> Iterator[None]:
    """Tensors are made where and in the dtype that they would be outside `from_pretrained`."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(dtype)
