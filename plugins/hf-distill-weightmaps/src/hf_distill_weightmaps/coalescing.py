"""The Multi-Level framework: a small model out of a big one, a big one out of it, and a mixture of two.

    build_student("big", "coalesce")                                       # half the width and half the blocks
    build_student("small-trained", "interpolate", onto="big", alpha=0.25)  # 0.75 big + 0.25 decoalesced small

`hf_distill_weightmaps.presets:v_cycle` makes the cycle of them for ``hf-distill stages``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from hf_distill import Blueprint, Source, open_weights, shape_only

from .families import Axis, Sizes
from .growing import expansion
from .mapping import Maps, changes, reduce
from .plans import Plan, shape_of

DEPTHS = ("adjacent", "apart")


@shape_only
def coalesce(
    teacher: PreTrainedModel,
    *,
    hidden_size: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    key_value_heads: int | None = None,
    intermediate_size: int | None = None,
    depth: str = "adjacent",
) -> Blueprint:
    """A small model whose units and blocks are groups of the teacher's.

    Units that lie `hidden_size` apart, and heads that lie `heads` apart, make a group: what they write is averaged,
    what is read from them is summed; blocks are averaged. Heads keep their width. Coalescing what `decoalesce` made
    gives the small model back.

    Paper: Zou et al. 2024, "A Multi-Level Framework for Accelerating Training Transformer Models", ICLR,
    arXiv:2404.07999. Its code doubles all embeddings, so that a tied head sums what it reads. Here the norm before the
    head is summed instead, so that the hidden state keeps its scale; of BERT, which norms its embeddings, the two are
    the same function.

    Args:
        teacher: a big model of a known family.
        hidden_size: of the student; half the teacher's where not given.
        layers: blocks of the student, a divisor of the teacher's; half of them where not given.
        heads: in proportion to the hidden size where not given.
        key_value_heads: likewise.
        intermediate_size: likewise.
        depth: which blocks are averaged: "adjacent" ones, or those that lie `layers` "apart".

    Raises:
        ValueError: an unknown family or depth, or a size that is larger or not possible.
    """
    big, family = shape_of(teacher)
    small = big.changed(
        family,
        hidden_size=hidden_size or big.hidden // 2,
        layers=layers or max(big.layers // 2, 1),
        heads=heads,
        key_value_heads=key_value_heads,
        intermediate_size=intermediate_size,
    )
    groups = block_groups(small.layers, big.layers, depth)
    last = [group[-1] for group in groups]
    plan = Plan.of(teacher, small=small, big=big, student=small, blocks=last)
    mapping = {
        name: _mean(plan.teacher_names(name, lambda block: groups[block]), axes, plan.maps)
        for name, axes in plan.axes.items()
    }
    return Blueprint(plan.config, mapping, last, record={"groups": groups})


@shape_only
def decoalesce(
    teacher: PreTrainedModel,
    *,
    hidden_size: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    key_value_heads: int | None = None,
    intermediate_size: int | None = None,
    depth: str = "adjacent",
) -> Blueprint:
    """A big model out of a coalesced one: units and blocks are copied, what is read from copies is split equally.

    The student is the same function as the teacher where it has as many blocks and a multiple of the hidden size. See
    `coalesce` for the paper.

    Args:
        teacher: a small model of a known family.
        hidden_size: of the student; twice the teacher's where not given.
        layers: blocks of the student, a multiple of the teacher's; twice as many where not given.
        heads: in proportion to the hidden size where not given.
        key_value_heads: likewise.
        intermediate_size: likewise.
        depth: as it was coalesced.

    Raises:
        ValueError: an unknown family or depth, or a size that is smaller or not possible.
    """
    small, family = shape_of(teacher)
    big = small.changed(
        family,
        hidden_size=hidden_size or 2 * small.hidden,
        layers=layers or 2 * small.layers,
        heads=heads,
        key_value_heads=key_value_heads,
        intermediate_size=intermediate_size,
    )
    return expansion(teacher, big, _order(small.layers, big.layers, depth))


@shape_only
def interpolate(teacher: PreTrainedModel, *, onto: str, alpha: float = 0.25, depth: str = "adjacent") -> Blueprint:
    """A big model moved towards what a small one has learned: (1 - alpha) big + alpha decoalesced small.

    See `coalesce` for the paper, whose code has alpha at 0.25 and whose example for GPT-2 takes 0.5.

    Args:
        teacher: the small model, coalesced from the big one and trained.
        onto: folder or hub name of the big model.
        alpha: share of the small one.
        depth: as it was coalesced.

    Raises:
        ValueError: alpha out of range, or models that do not belong together.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; expected a share from 0 to 1.")
    small, family = shape_of(teacher)
    config = AutoConfig.from_pretrained(onto)
    if config.model_type != teacher.config.model_type:
        raise ValueError(f"{onto!r} is {config.model_type!r}; the small model is {teacher.config.model_type!r}.")
    big = Sizes.of(config, family)
    blueprint = expansion(teacher, big, _order(small.layers, big.layers, depth))
    _, weights = open_weights(onto, model_class=type(teacher))

    def mixed(name: str, source: Source) -> Source:
        def function(tensor: Tensor) -> Tensor:
            grown, before = tensor if source.function is None else source.function(tensor), weights[name]
            if grown.shape != before.shape:
                raise ValueError(
                    f"{name} of {onto!r} is {tuple(before.shape)}; decoalesced it is {tuple(grown.shape)}."
                )
            return torch.lerp(before.to(grown), grown, alpha)

        return Source(
            "interpolate", source.tensors, f"{alpha} of it expanded, {1 - alpha} of {name} in {onto}", function
        )

    blueprint.config = config
    blueprint.mapping = {name: mixed(name, source) for name, source in blueprint.mapping.items()}
    return blueprint


def block_groups(small: int, big: int, depth: str) -> list[list[int]]:
    """The big model's blocks of each block of the small one.

    Raises:
        ValueError: an unknown depth, or a number that does not divide the other.
    """
    if depth not in DEPTHS:
        raise ValueError(f"depth is {depth!r}; expected {' or '.join(DEPTHS)}.")
    if big % small:
        possible = [count for count in range(1, big + 1) if big % count == 0]
        raise ValueError(f"{big} blocks do not make {small} groups of one size; numbers that divide {big}: {possible}.")
    size = big // small
    if depth == "adjacent":
        return [list(range(block * size, (block + 1) * size)) for block in range(small)]
    return [list(range(block, big, small)) for block in range(small)]


def _order(small: int, big: int, depth: str) -> list[int]:
    owner = {one: block for block, group in enumerate(block_groups(small, big, depth)) for one in group}
    return [owner[block] for block in range(big)]


def _mean(names: Sequence[str], axes: Sequence[Axis], maps: Maps) -> Source:
    if len(names) == 1 and not changes(axes, maps):
        return Source("copy", tuple(names))

    def function(*tensors: Tensor) -> Tensor:
        return reduce(torch.stack(tensors).mean(0), axes, maps)

    return Source("coalesce", tuple(names), function=function)
