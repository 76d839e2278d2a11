"""bert2BERT: a big model that begins where a small one ended.

    build_student("small", "grow", hidden_size=1024)                       # the same function as the small one
    build_student("small", "grow", hidden_size=1024, layers=24, mode="aki")  # advanced initialisation, and deeper

`hf_distill_weightmaps.coalescing` expands in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from hf_distill import Blueprint, Source, shape_only

from .families import Axis, Sizes
from .mapping import Maps, changes, expand, is_mixed, mix
from .plans import Plan, shape_of

MODES, MAPS = ("fpi", "aki"), ("cyclic", "random")


@shape_only
def grow(
    teacher: PreTrainedModel,
    *,
    hidden_size: int | None = None,
    layers: int | None = None,
    heads: int | None = None,
    key_value_heads: int | None = None,
    intermediate_size: int | None = None,
    mode: str = "fpi",
    units: str = "cyclic",
    seed: int = 0,
) -> Blueprint:
    """A wider and deeper model made of the teacher's weights.

    Every unit of the student is a copy of one of the teacher's: what a tensor writes is copied, what it reads is split
    equally among the copies (function-preserving initialisation, "fpi"). The student is the same function as the
    teacher where it has as many blocks and a multiple of the hidden size: norms need equally many copies of each
    position. Advanced initialisation ("aki") takes the copies of heads and neurons from the next block instead, so that
    copies do not learn alike; the last block takes its own. Blocks are stacked: the whole stack as often as it fits,
    then its top. Heads keep their width. A tied head has no weights to split; the norm before it is divided instead.

    After the paper's description: Chen et al. 2022, "bert2BERT", ACL, arXiv:2110.07143. The paper
    draws which units are copied ("random"); here the map is cyclic by default, since norms compute something else where
    units have unequally many copies. `hf_distill_weightmaps.presets:bert2bert` is its training in two stages.

    Args:
        teacher: a small model of a known family.
        hidden_size: of the student, at least the teacher's.
        layers: blocks of the student.
        heads: in proportion to the hidden size where not given.
        key_value_heads: likewise.
        intermediate_size: likewise.
        mode: "fpi" or "aki".
        units: "cyclic" (unit u copies unit u mod the teacher's number of them) or "random" (those beyond the teacher's
            copy drawn ones, as in the paper).
        seed: of random units.

    Raises:
        ValueError: an unknown family, mode or choice of units, or a size that is smaller or not possible.
    """
    for what, value, known in [("mode", mode, MODES), ("units", units, MAPS)]:
        if value not in known:
            raise ValueError(f"{what} is {value!r}; expected {' or '.join(known)}.")
    small, family = shape_of(teacher)
    big = small.changed(
        family,
        hidden_size=hidden_size,
        layers=layers,
        heads=heads,
        key_value_heads=key_value_heads,
        intermediate_size=intermediate_size,
    )
    if big.layers < small.layers:
        raise ValueError(f"Asked for {big.layers} blocks; growing starts with the {small.layers} that there are.")
    times, left = divmod(big.layers, small.layers)
    order = [*list(range(small.layers)) * times, *range(small.layers - left, small.layers)]
    return expansion(teacher, big, order, advanced=mode == "aki", seed=seed if units == "random" else None)


def expansion(
    teacher: PreTrainedModel, big: Sizes, order: Sequence[int], *, advanced: bool = False, seed: int | None = None
) -> Blueprint:
    """A student of the shape `big` whose blocks are those of the teacher in the order given, expanded.

    Args:
        teacher: the small model.
        big: the student's shape.
        order: the teacher's block for each block of the student.
        advanced: take copies of heads and neurons from the next block.
        seed: draw the copies at random.
    """
    small, _ = shape_of(teacher)
    plan = Plan.of(teacher, small=small, big=big, student=big, blocks=order, seed=seed)
    mapping = {}
    for name, axes in plan.axes.items():
        (own,) = plan.teacher_names(name, lambda block: [order[block]])
        following = own
        if advanced and any(map(is_mixed, axes)):
            (following,) = plan.teacher_names(name, lambda block: [min(order[block] + 1, small.layers - 1)])
        mapping[name] = _source(own, following, axes, plan.maps)
    preserving = plan.maps["hidden"].is_balanced and list(order) == list(range(small.layers)) and not advanced
    return Blueprint(plan.config, mapping, list(order), record={"function_preserving": preserving})


def _source(own: str, following: str, axes: Sequence[Axis], maps: Maps) -> Source:
    if not changes(axes, maps):
        return Source("copy", (own,))
    if following == own:
        return Source("expand", (own,), function=lambda tensor: expand(tensor, axes, maps))
    return Source(
        "expand",
        (own, following),
        part="copies of heads and neurons from the second",
        function=lambda first, second: mix(expand(first, axes, maps), expand(second, axes, maps), axes, maps),
    )
