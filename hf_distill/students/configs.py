"""Changing how many blocks a configuration asks for, and making a model from one without disturbing anything.

Families call the same thing by many names; `FIELDS` lists them, and a configuration answers to those that it has.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PretrainedConfig, PreTrainedModel

FIELDS = {
    "hidden_size": ("hidden_size", "d_model", "n_embd", "dim", "word_embed_proj_dim", "pooler_hidden_size"),
    "layers": (
        *("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers"),
        *("encoder_layers", "decoder_layers"),
    ),
    "heads": (
        *("num_attention_heads", "n_head", "n_heads", "num_heads"),
        *("encoder_attention_heads", "decoder_attention_heads"),
    ),
    "intermediate_size": (
        *("intermediate_size", "d_ff", "n_inner", "ffn_dim", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim"),
        *("moe_intermediate_size", "shared_expert_intermediate_size"),
    ),
}
_ENCODER_COUNTS = ("encoder_layers", "num_layers", "num_hidden_layers")
_DECODER_COUNTS = ("decoder_layers", "num_decoder_layers", "num_hidden_layers")
# Lists of block numbers; any other list as long as the stack has one entry for each block (layer_types and the like).
_INDEX_LISTS = ("mlp_only_layers", "attn_layer_indices", "cross_attention_layers")
_OTHER_LISTS = ("architectures", "bos_token_id", "eos_token_id", "pad_token_id")


def present(config: PretrainedConfig, what: str) -> list[str]:
    """The names among `FIELDS[what]` under which a configuration has a number."""
    values = config.to_dict()
    return [name for name in FIELDS[what] if isinstance(values.get(name), int)]


def part_of(config: PretrainedConfig, stack: str = "") -> PretrainedConfig:
    """The part of a configuration that describes one stack: its own, the text model's, or all of it."""
    own = getattr(config, stack, None) if stack else config.get_text_config()
    return own if isinstance(own, PretrainedConfig) else config


def keep_blocks(config: PretrainedConfig, kept: Sequence[int], num_blocks: int, stack: str = "") -> None:
    """Make a configuration ask for the blocks `kept` of the `num_blocks` that a stack has now.

    Lists with an entry for each block keep the entries of those blocks, in their order.

    Raises:
        ValueError: the configuration has no field that counts the stack's blocks.
    """
    part = part_of(config, stack)
    names = {"": present(part, "layers"), "encoder": _ENCODER_COUNTS, "decoder": _DECODER_COUNTS}[stack]
    counts = [name for name in names if getattr(part, name, None) == num_blocks]
    if not counts:
        raise ValueError(
            f"{type(part).__name__} has no field that counts its {num_blocks} {stack} blocks; "
            f"looked for {', '.join(names or FIELDS['layers'])}."
        )
    # One stack of a configuration that describes two has no lists that could be told apart.
    values: dict[str, Any] = {} if stack and part is config else part.to_dict()
    setattr(part, counts[0], len(kept))
    for name, value in values.items():
        if name in _INDEX_LISTS and isinstance(value, list):
            setattr(part, name, [new for new, old in enumerate(kept) if old in value])
        elif isinstance(value, list) and len(value) == num_blocks and name not in _OTHER_LISTS:
            setattr(part, name, [value[index] for index in kept])


def new_model(
    teacher: PreTrainedModel,
    config: PretrainedConfig,
    *,
    model_class: type[PreTrainedModel] | None = None,
    seed: int | None = 0,
) -> PreTrainedModel:
    """A model of the teacher's class, dtype, device and attention kind, with random weights.

    Args:
        teacher: what the new model resembles.
        config: its configuration.
        model_class: where not the teacher's.
        seed: decides the weights, leaving the global generators alone; None draws from those.

    Raises:
        ValueError: the family refuses the configuration, or the teacher was changed by transforms.
    """
    config = _checked(teacher, config)
    made: Any = model_class or type(teacher)
    with contextlib.ExitStack() as context:
        if seed is not None:
            context.enter_context(torch.random.fork_rng(devices=[]))
            torch.manual_seed(seed)
        student = made._from_config(
            config, dtype=teacher.dtype, attn_implementation=teacher.config._attn_implementation
        )
    if teacher.can_generate() and student.can_generate():
        student.generation_config = copy.deepcopy(teacher.generation_config)
    device = "cpu" if teacher.device.type == "meta" else teacher.device  # a teacher known by its shape alone
    placed: PreTrainedModel = student.to(device).eval()
    return placed


def skeleton(
    teacher: PreTrainedModel, config: PretrainedConfig, model_class: type[PreTrainedModel] | None = None
) -> PreTrainedModel:
    """A model without values, on the device "meta": the names, shapes and ties of a student's tensors.

    Args:
        teacher: gives the dtype, and the class where none is given.
        config: of the student.
        model_class: of the student.

    Raises:
        ValueError: the family refuses the configuration, or the teacher was changed by transforms.
    """
    made: Any = model_class or type(teacher)
    with torch.device("meta"):
        model: PreTrainedModel = made._from_config(_checked(teacher, config), dtype=teacher.dtype).eval()
    return model


def _checked(teacher: PreTrainedModel, config: PretrainedConfig) -> PretrainedConfig:
    """A copy of a configuration as it will be read back after saving: what contradicts itself shows now."""
    if getattr(config, "hf_distill", {}).get("transforms"):
        raise ValueError(f"{type(teacher).__name__} was changed by transforms; build from the model before them.")
    values = {key: value for key, value in config.to_dict().items() if key != "hf_distill"}
    try:
        return type(config).from_dict(values)
    except StrictDataclassError as error:  # not a ValueError, though its cause is one
        raise ValueError(f"{type(config).__name__} refuses the student's configuration: {error.__cause__}") from error
