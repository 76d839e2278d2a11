"""A student of the teacher's family and vocabulary with another shape and random weights.

    fresh(teacher, size="quarter")                  # a quarter of the teacher's parameters
    fresh(teacher, size="mini")                     # 4 blocks, 256 wide
    fresh(teacher, hidden_size=512, layers=6)       # in numbers; what is not given follows from the teacher

The named shapes "tiny" to "medium" are those of the compact BERTs of Turc et al. (2019, arXiv:1908.08962), with heads
64 wide.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from ..models.layers import blocks, is_encoder_decoder
from ..plugins.registry import did_you_mean
from .blueprint import Blueprint, Source, shape_only
from .configs import keep_blocks, part_of, present, skeleton

SHARES = {"half": 1 / 2, "quarter": 1 / 4, "eighth": 1 / 8}
SHAPES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512)}
_HEAD_WIDTH = 64
_SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id",
                   "mask_token_id", "decoder_start_token_id")  # fmt: skip
# Two shapes whose parameter counts are both within this share of the target are told apart by proportions instead.
_CLOSE = 0.05


@shape_only
def fresh(
    teacher: PreTrainedModel,
    *,
    size: str | None = None,
    hidden_size: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int | None = None,
    config: dict[str, Any] | None = None,
    seed: int | None = 0,
) -> Blueprint:
    """A new model of the teacher's class.

    Heads divide the width and are, where nothing else is asked for, as wide as the teacher's; key-value heads and inner
    width keep their proportions. Encoder-decoders get the given layers in both stacks, or both cut in proportion.

    Args:
        teacher: what the student resembles.
        size: "half", "quarter", "eighth" of the teacher's *parameters* (embeddings included; the nearest shape no
            wider or deeper than the teacher), or "tiny", "mini", "small", "medium"; in place of the next four.
        hidden_size: the width of the hidden states.
        layers: how many blocks.
        heads: attention heads per block.
        intermediate_size: the inner width of the feed-forward networks.
        vocab_size: where not the teacher's.
        config: any other fields of the configuration.
        seed: decides the weights, leaving the global generators alone; None draws from those.

    Raises:
        ValueError: an unknown size or field, a size beside numbers, or heads that do not divide the width.
    """
    numbers = {"hidden_size": hidden_size, "layers": layers, "heads": heads, "intermediate_size": intermediate_size}
    given = {name: value for name, value in numbers.items() if value is not None}
    for name, value in {**given, **({} if vocab_size is None else {"vocab_size": vocab_size})}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; a student has a whole number of them, at least one.")
    if size is not None and given:
        raise ValueError(f"size={size!r} already says {', '.join(given)}; give either the one or the others.")
    make: Any = partial(_configure, teacher, vocab_size=vocab_size, config=config or {})
    if size in SHARES:
        student_config = make(**_search(teacher, SHARES[size], make))
    elif size in SHAPES:
        layers, width = SHAPES[size]
        student_config = make(layers=layers, hidden_size=width, heads=width // _HEAD_WIDTH)
    elif size is None:
        student_config = make(**given)
    else:
        raise ValueError(
            f"No size {size!r}; there are {', '.join((*SHARES, *SHAPES))}, or give hidden_size and layers."
        )
    names = skeleton(teacher, student_config).state_dict()
    # Nothing is copied, so no block of the student belongs to one of the teacher's.
    return Blueprint(student_config, dict.fromkeys(names, Source("random")), seed=seed)


def _configure(
    teacher: PreTrainedModel,
    *,
    hidden_size: int | None = None,
    layers: int | dict[str, int] | None = None,
    heads: int | None = None,
    intermediate_size: int | None = None,
    vocab_size: int | None,
    config: Mapping[str, Any],
) -> PretrainedConfig:
    """The teacher's configuration with another shape; `layers` may say it for each stack."""
    changed = copy.deepcopy(teacher.config)
    for stack, depth in _depths(teacher).items():
        wanted = layers[stack] if isinstance(layers, dict) else depth if layers is None else layers
        keep_blocks(changed, [index % depth for index in range(wanted)], depth, stack)
    part = part_of(changed)
    _set_width(part, hidden_size, heads, intermediate_size)
    for name, value in {**({"vocab_size": vocab_size} if vocab_size else {}), **config}.items():
        if not hasattr(part, name):
            raise ValueError(f"{type(part).__name__} has no field {name!r}{did_you_mean(name, part.to_dict())}")
        setattr(part, name, value)
    _check_special_tokens(part)
    return changed


def _check_special_tokens(part: PretrainedConfig) -> None:
    size = getattr(part, "vocab_size", None)
    for name in _SPECIAL_TOKENS:
        ids = getattr(part, name, None)
        for one in ids if isinstance(ids, list) else [ids]:
            if isinstance(size, int) and isinstance(one, int) and one >= size:
                raise ValueError(
                    f"A vocabulary of {size} loses the token {one}, which is the {name}; give vocab_size at least "
                    f"{one + 1}, or another {name} in config."
                )


def _set_width(part: PretrainedConfig, width: int | None, heads: int | None, inner: int | None) -> None:
    old_width, old_heads = _width_and_heads(part)
    width = width or old_width
    head_width = getattr(part, "head_dim", None) or old_width // old_heads
    # Some families (Gemma) choose the width of a head freely; elsewhere the heads share the hidden width.
    shared = head_width * old_heads == old_width
    if heads is None:
        # Half the width, since rotary embeddings take the dimensions of a head in pairs.
        even = _nearest_divisor(max(width // 2, 1), width / head_width)
        heads = even if shared else max(round(old_heads * width / old_width), 1)
    if shared:
        if width % heads:
            raise ValueError(f"{heads} heads cannot share a width of {width}; possible: {_divisors(width)}.")
        if getattr(part, "head_dim", None) is not None:
            part.head_dim = width // heads
    groups = getattr(part, "num_key_value_heads", None)
    if groups is not None:
        part.num_key_value_heads = _nearest_divisor(heads, heads * groups / old_heads)
    for name in present(part, "intermediate_size"):
        setattr(part, name, inner or round(getattr(part, name) * width / old_width))
    for name in present(part, "heads"):
        setattr(part, name, heads)
    for name in present(part, "hidden_size"):
        if getattr(part, name) == old_width:
            setattr(part, name, width)


def _width_and_heads(part: PretrainedConfig) -> tuple[int, int]:
    names = {what: present(part, what) for what in ("hidden_size", "heads")}
    for what, found in names.items():
        if not found:
            raise ValueError(f"{type(part).__name__} has no field for {what} that `fresh` knows; build it yourself.")
    return getattr(part, names["hidden_size"][0]), getattr(part, names["heads"][0])


def _search(teacher: PreTrainedModel, share: float, make: Any) -> dict[str, Any]:
    """The width, heads and layers whose number of parameters is nearest a share of the teacher's.

    Of those within 5 % the one whose depth and width shrank most alike. Models are counted without being allocated,
    taking the blocks of a stack to be of one size.
    """
    width, heads = _width_and_heads(part_of(teacher.config))
    depths = _depths(teacher)
    deepest = max(depths.values())
    target = share * teacher.num_parameters()
    found = []
    for fewer in range(1, heads + 1):
        shape = {"hidden_size": width * fewer // heads, "heads": fewer}
        single = dict.fromkeys(depths, 1)
        base = _count(teacher, make(**shape, layers=single))
        block = {stack: _count(teacher, make(**shape, layers={**single, stack: 2})) - base for stack in depths}
        for depth in range(1, deepest + 1):
            layers = {stack: max(round(whole * depth / deepest), 1) for stack, whole in depths.items()}
            error = abs((base + sum((layers[stack] - 1) * block[stack] for stack in depths)) / target - 1)
            skew = abs(math.log((fewer / heads) / (depth / deepest)))
            found.append((error if error > _CLOSE else 0, skew, error, {**shape, "layers": layers}))
    return min(found, key=lambda candidate: candidate[:3])[-1]


def _count(teacher: PreTrainedModel, config: PretrainedConfig) -> int:
    model_class: Any = type(teacher)
    with torch.device("meta"):
        return int(model_class._from_config(config).num_parameters())


def _depths(model: PreTrainedModel) -> dict[str, int]:
    stacks = ("encoder", "decoder") if is_encoder_decoder(model) else ("",)
    return {stack: len(blocks(model, stack)) for stack in stacks}


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


def _nearest_divisor(number: int, wanted: float) -> int:
    return min(_divisors(number), key=lambda divisor: abs(divisor - wanted))
