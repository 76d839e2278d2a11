"""Changing the modules of a model in place, in a way that survives saving and loading.

    transform(model, "low_rank", plugins=plugins, rank=8)
    model.save_pretrained("student")
    model = load_student("student", plugins=plugins)
    model = AutoModelForCausalLM.from_pretrained("student")  # after `hf_distill.enable_from_pretrained(plugins)`

A transform is a function ``(model, **options) -> None``, registered with kind "transform". What was applied stands in
``config.hf_distill["transforms"]``; loading applies it again to a model without weights, then loads them.

Without that call `from_pretrained` would build the stock model and leave out what it has no place for.
It is stopped by an entry in ``config.fusion_config``, which transformers refuses with what the entry says.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedModel

from ..plugins.manager import Plugins
from .opening import architecture, refuse_missing_folder
from .weights import whole_weights

NEEDS_CALL = (
    "this model was changed by transforms of hf_distill; load it with hf_distill.load_student, or call "
    "hf_distill.enable_from_pretrained() before"
)
_BORN = "hf_distill_born_transformed"
_HUB_OPTIONS = ("revision", "token", "cache_dir", "subfolder", "local_files_only", "trust_remote_code")


def transform(
    model: PreTrainedModel, name: str, *, plugins: Plugins | Iterable[str | object] | None = None, **options: Any
) -> None:
    """Apply the transform `name` to `model`, in place, and write it into the model's configuration.

    The modules that a transform makes may depend on shapes and options only. When the model is loaded again, it runs on
    parameters that have no values yet (device "meta"); what it computes from values belongs into parameters or
    persistent buffers, which are loaded. It leaves alone the configuration that the stock model is built from, except
    to untie a head that it replaces.

    Args:
        model: what to change.
        name: of a registered transform.
        plugins: names of plugins or a `Plugins`, beside the installed one that has the transform.
        options: of the transform; JSON-serialisable.

    Raises:
        ValueError: unknown transform or option, or options that JSON cannot hold.
    """
    try:
        json.dumps(options)
    except TypeError as error:
        raise ValueError(f"The options of a transform are saved with the model; JSON cannot hold {options}.") from error
    plugins = Plugins.of(plugins)
    plugins.transforms.create(name, options)(model)
    for parameter in model.parameters():
        # As it will be when it is read back; products with another layout round differently.
        parameter.data = parameter.data.contiguous()
    done = getattr(model.config, "hf_distill", {})
    spec = {"name": name, "options": options, "package": plugins.transforms.get(name).package}
    model.config.hf_distill = {**done, "transforms": [*done.get("transforms", []), spec]}
    _demand_import(model.config)


def load_student(
    path: str | os.PathLike[str],
    *,
    plugins: Plugins | Iterable[str | object] | None = None,
    model_class: type[PreTrainedModel] | None = None,
    **options: Any,
) -> PreTrainedModel:
    """Load a student, with the transforms that were applied to it; a plain one simply through `from_pretrained`.

    Args:
        path: folder or hub name.
        plugins: who may apply the transforms that the student names: names of plugins, or a `Plugins`. What lies in a
            folder imports and activates nothing by itself.
        model_class: where the class that the checkpoint names is not the one wanted.
        options: of `from_pretrained`: dtype, device_map, revision ...

    Raises:
        ValueError: there is no such folder, a transform is not registered, or the weights do not fit what the
            transforms made.
    """
    refuse_missing_folder(path)
    config = AutoConfig.from_pretrained(path, **{key: options[key] for key in _HUB_OPTIONS if key in options})
    model_class = model_class or architecture(config, path)
    loaded: PreTrainedModel
    if transforms_of(config):
        loaded = load_transformed(model_class, path, plugins=plugins, **options)
    else:
        loaded = model_class.from_pretrained(path, **options)
    return loaded


def transforms_of(config: PretrainedConfig | Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was applied to a model, from its configuration or that as a mapping."""
    note = config.get("hf_distill") if isinstance(config, Mapping) else getattr(config, "hf_distill", None)
    return list(note.get("transforms", [])) if isinstance(note, Mapping) else []


def needs_transforms(model_class: type[PreTrainedModel], path: Any, options: Mapping[str, Any]) -> bool:
    """Whether what `from_pretrained` of a stock class was asked for is a student that transforms changed."""
    config = options.get("config")
    if isinstance(config, PretrainedConfig):
        return bool(transforms_of(config)) and not hasattr(model_class, _BORN)
    if path is None or options.get("gguf_file") or hasattr(model_class, _BORN):
        return False
    try:
        hub = {key: options[key] for key in _HUB_OPTIONS if key in options}
        values, _ = PretrainedConfig.get_config_dict(path if config is None else config, **hub)
    except (OSError, ValueError):  # transformers says better what is wrong with it
        return False
    return bool(transforms_of(values))


def load_transformed(
    model_class: type[PreTrainedModel],
    path: str | os.PathLike[str],
    *args: Any,
    plugins: Plugins | Iterable[str | object] | None = None,
    output_loading_info: bool = False,
    **options: Any,
) -> Any:
    """`from_pretrained` of a class for a student that transforms changed; whole on every process under ZeRO-3.

    Raises:
        ValueError: a transform is not registered, or the weights do not fit what the transforms made.
    """
    config = options.get("config")
    if not isinstance(config, PretrainedConfig):
        config = AutoConfig.from_pretrained(path, **{key: options[key] for key in _HUB_OPTIONS if key in options})
    transforms = transforms_of(config)
    plugins = Plugins.of(plugins)
    for spec in transforms:
        if spec["name"] not in plugins.transforms:
            raise ValueError(
                f"{str(path)!r} was made with the transform {spec['name']!r} of {spec['package']}, which is not "
                f"active. Name the plugin, if you trust it: plugins=[{str(spec['package']).partition(' (')[0]!r}]."
            )
    skeleton, buffers, made = _skeleton(model_class, transforms, plugins)
    fusions = {key: one for key, one in (getattr(config, "fusion_config", None) or {}).items() if key != NEEDS_CALL}
    fusions |= options.pop("fusion_config", None) or {}
    model: Any
    with whole_weights():
        model, report = skeleton.from_pretrained(
            path, *args, fusion_config=fusions, output_loading_info=True, **options
        )
    # Another class than the one that was saved has a head too few or too many, as without transforms.
    is_another = model_class.__name__ not in (config.architectures or [model_class.__name__])
    missing = [name for name in report["missing_keys"] if name in made or not is_another]
    unexpected = [] if is_another else report["unexpected_keys"]
    if missing or unexpected:
        raise ValueError(
            f"The weights in {str(path)!r} do not fit what its transforms made; missing: "
            f"{sorted(missing)}, without a place: {sorted(unexpected)}. "
            "Is it the version of the plugin that saved them?"
        )
    for name, value in buffers.items():
        model.get_buffer(name).copy_(value)
    model.__class__ = model_class
    _demand_import(model.config)
    return (model, report) if output_loading_info else model


def _demand_import(config: PretrainedConfig) -> None:
    """Let plain transformers refuse to load what was changed."""
    config.fusion_config = {**(getattr(config, "fusion_config", None) or {}), NEEDS_CALL: True}


def _skeleton(
    model_class: type[PreTrainedModel], transforms: Sequence[dict[str, Any]], plugins: Plugins
) -> tuple[Any, dict[str, Tensor], set[str]]:
    """A model class whose models are born transformed, and what is known once there is one.

    That is the values of the buffers that no checkpoint holds, and the names of the tensors that transforms made.

    Going through `from_pretrained` of a class, rather than filling a finished model, leaves shards, dtypes, devices,
    tied weights and checkpoints in an older layout to transformers.
    """
    buffers: dict[str, Tensor] = {}
    made: set[str] = set()

    def build(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        model_class.__init__(self, config, *args, **kwargs)
        # Kept alive, or a buffer made below could get the id of one that it replaces.
        stock = {id(buffer): buffer for buffer in self.buffers()}
        names = set(self.state_dict())
        with _ordinary_tensors():
            for spec in transforms:
                plugins.transforms.create(spec["name"], spec["options"])(self)
        # from_pretrained leaves buffers outside the state dict uninitialised, but for those that it knows how to make.
        saved = self.state_dict()
        made.update(saved.keys() - names)
        for name, buffer in self.named_buffers():
            if name in saved or id(buffer) in stock:
                continue
            if buffer.is_meta:
                raise ValueError(f"A transform makes the buffer {name!r} from parameters; register it as persistent.")
            buffers[name] = buffer

    namespace = {"__init__": build, "__module__": model_class.__module__, _BORN: True}
    return type(model_class.__name__, (model_class,), namespace), buffers, made


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
