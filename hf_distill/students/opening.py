"""A model as its shapes and its weights: what is on disk is opened, not loaded.

model, weights = open_weights("big-model")
model.config, model.state_dict()["lm_head.weight"].shape     # no values
weights["lm_head.weight"]                                    # one tensor, read now
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
import transformers
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel

from .configs import skeleton
from .weights import CheckpointWeights, ModelWeights, Weights, checkpoint_files, is_partitioned, stored_dtype


def open_weights(
    source: PreTrainedModel | str | os.PathLike[str],
    *,
    model_class: type[PreTrainedModel] | None = None,
    dtype: str | torch.dtype = "auto",
) -> tuple[PreTrainedModel, Weights]:
    """A model, maybe without values, and what reads its tensors one at a time, by the names of its state dict.

    Args:
        source: a folder or hub name, whose safetensors are read when they are asked for (a checkpoint in other files
            or a quantised one is loaded whole), or a model, where ZeRO-3 may have cut it over the processes.
        model_class: where the class that the checkpoint names is not the one wanted.
        dtype: of the model; tensors are read in the one that they are stored in. "auto" is that of the checkpoint.

    Raises:
        ValueError: there is no such folder, or the checkpoint names no class of transformers.
    """
    if isinstance(source, PreTrainedModel):
        partitioned = any(map(is_partitioned, source.parameters()))
        return skeleton(source, source.config) if partitioned else source, ModelWeights(source)
    refuse_missing_folder(source)
    config = AutoConfig.from_pretrained(source)
    made: Any = model_class or architecture(config, source)
    files = checkpoint_files(source) if getattr(config, "quantization_config", None) is None else []
    model: PreTrainedModel
    if not files:
        model = made.from_pretrained(source, dtype=dtype)
        return model, ModelWeights(model)
    with torch.device("meta"):
        chosen = (config.dtype or stored_dtype(files)) if dtype == "auto" else dtype
        model = made._from_config(config, dtype=chosen).eval()
    if model.can_generate():
        with contextlib.suppress(OSError):  # a checkpoint may have no file of these defaults
            model.generation_config = GenerationConfig.from_pretrained(source)
    return model, CheckpointWeights(files, model)


def refuse_missing_folder(source: str | os.PathLike[str]) -> None:
    """Say so where a path leads nowhere, which the hub would call a bad name.

    Raises:
        ValueError: it is the path of nothing, and not a name such as "owner/model" either.
    """
    name = os.fspath(source)
    looks_like_a_path = not isinstance(source, str) or name.startswith((".", "~", os.sep)) or name.count("/") > 1
    if looks_like_a_path and not os.path.isdir(name):
        raise ValueError(
            f"There is no folder {name!r}; expected one with a saved model, or the name of one on the hub."
        )


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
