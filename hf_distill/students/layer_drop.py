"""A student that is the teacher with fewer blocks, and everything else copied.

DistilBERT (Sanh et al. 2019, arXiv:1910.01108) keeps every other block; Shleifer and Rush (2020, arXiv:2010.13002)
compare choices and also cut the decoder of an encoder-decoder alone.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor
from transformers import PreTrainedModel

from ..models.layers import blocks, is_encoder_decoder, layer_map
from .blueprint import Blueprint, Source, shape_only
from .configs import keep_blocks, skeleton

Layers = int | Sequence[int]


@shape_only
def layer_drop(
    teacher: PreTrainedModel,
    *,
    layers: Layers | None = None,
    strategy: str = "uniform",
    encoder_layers: Layers | None = None,
    decoder_layers: Layers | None = None,
) -> Blueprint:
    """A model of the teacher's class with some of its blocks; embeddings, norms and head are copied, tied stays tied.

    Args:
        teacher: any model whose blocks `hf_distill.models.layers` finds.
        layers: how many blocks to keep, chosen by `strategy`, or which, counted from 0; half of them if not given. Of
            an encoder-decoder, for both of its stacks.
        strategy: "uniform" (evenly spaced, first and last included), "last_of_block", "every_k" or "top"; see
            `hf_distill.models.layers.layer_map`.
        encoder_layers: of an encoder-decoder, in place of `layers`; where only one stack is named, the other stays
            whole.
        decoder_layers: likewise.

    Raises:
        ValueError: blocks that the teacher does not have or that are named twice, a family whose blocks cannot be
            found, or one where a block cannot stand in another place.
    """
    wishes: dict[str, Layers | None] = {"": layers}
    if is_encoder_decoder(teacher):
        wishes = {"encoder": encoder_layers, "decoder": decoder_layers}
        if layers is not None or encoder_layers is decoder_layers is None:
            wishes = {stack: layers if wish is None else wish for stack, wish in wishes.items()}
        else:
            wishes = {stack: len(blocks(teacher, stack)) if wish is None else wish for stack, wish in wishes.items()}
    elif encoder_layers is not None or decoder_layers is not None:
        raise ValueError(f"{type(teacher).__name__} has one stack of blocks; say layers=... instead.")
    kept = {stack: _choose(len(blocks(teacher, stack)), wish, strategy) for stack, wish in wishes.items()}
    config = copy.deepcopy(teacher.config)
    for stack, chosen in kept.items():
        keep_blocks(config, chosen, len(blocks(teacher, stack)), stack)
    return Blueprint(config, _copies(teacher, skeleton(teacher, config), kept), kept.get("", kept))


def _choose(num_teacher: int, wish: Layers | None, strategy: str) -> list[int]:
    """The teacher's blocks to keep, by their number."""
    if wish is None:
        wish = max(num_teacher // 2, 1)
    if isinstance(wish, int):
        if not 1 <= wish <= num_teacher:
            raise ValueError(f"Asked for {wish} blocks; the teacher has {num_teacher}, so 1 to {num_teacher} can stay.")
        return [block for _, block in layer_map(wish, num_teacher, strategy)]
    chosen = [block for _, block in layer_map(len(wish), num_teacher, list(enumerate(wish)))] if wish else []
    if not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"Blocks to keep: {list(wish)}; expected at least one, each once (0 to {num_teacher - 1}).")
    return chosen


def _copies(teacher: PreTrainedModel, student: PreTrainedModel, kept: Mapping[str, Sequence[int]]) -> dict[str, Source]:
    """Which of the teacher's tensors goes where in the student."""
    available, wanted = teacher.state_dict(), student.state_dict()
    sources = {name: _source(name, teacher, kept, available) for name in wanted}
    empty = [
        name
        for name, source in sources.items()
        if source not in available or available[source].shape != wanted[name].shape
    ]
    dropped = tuple(
        f"{_path(teacher, stack)}.{block}."
        for stack, chosen in kept.items()
        for block in range(len(blocks(teacher, stack)))
        if block not in chosen
    )
    left = sorted(name for name in available.keys() - set(sources.values()) if not name.startswith(dropped))
    if empty or left:
        raise ValueError(
            f"In {type(teacher).__name__} what a block is depends on its place, or its configuration counts other "
            f"blocks along, and with the blocks {dict(kept)} some tensors do not fit their new place: nothing fills "
            f"{_some(empty)}, nothing takes {_some(left)}. Keep blocks whose old and new places are of one kind."
        )
    return {name: Source("copy", (source,)) for name, source in sources.items()}


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _source(
    name: str, teacher: PreTrainedModel, kept: Mapping[str, Sequence[int]], available: Mapping[str, Tensor]
) -> str:
    """The teacher's name of what the student calls `name`."""
    for stack, chosen in kept.items():
        path = _path(teacher, stack)
        if name.startswith(path + "."):
            index, _, rest = name.removeprefix(path + ".").partition(".")
            others = range(1, len(blocks(teacher, stack)))
            # What only the first block has serves all of them (the relative position bias of T5), and stays first.
            shared = name in available and not any(f"{path}.{other}.{rest}" in available for other in others)
            return name if shared else f"{path}.{chosen[int(index)]}.{rest}"
    return name


def _path(model: PreTrainedModel, stack: str) -> str:
    found = blocks(model, stack)
    paths = [path for path, module in model.named_modules() if module is found]
    return str(paths[0])
