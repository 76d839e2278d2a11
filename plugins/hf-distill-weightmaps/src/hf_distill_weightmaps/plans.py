"""What growing and coalescing share: shapes, the student's configuration, and names of the teacher's tensors."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PretrainedConfig, PreTrainedModel

from hf_distill import keep_blocks, skeleton

from .families import Axis, Family, Sizes, TensorAxes, family_of
from .mapping import Maps, unit_maps


@dataclass(frozen=True)
class Plan:
    """A student of another shape.

    Attributes:
        family: of teacher and student.
        config: of the student.
        axes: of each of the student's tensors.
        maps: between the units of the small and the big one of the two.
    """

    family: Family
    config: PretrainedConfig
    axes: Mapping[str, tuple[Axis, ...]]
    maps: Maps

    @classmethod
    def of(
        cls,
        teacher: PreTrainedModel,
        *,
        small: Sizes,
        big: Sizes,
        student: Sizes,
        blocks: Sequence[int],
        seed: int | None = None,
    ) -> Plan:
        """A plan for a student of the shape `student`, which is one of the other two.

        Args:
            teacher: gives class and configuration.
            small: the shape of the small model.
            big: the shape of the big model.
            student: the one that is built.
            blocks: the block of the teacher whose entries in the configuration each block of the student takes over.
            seed: see `unit_maps`.
        """
        own, family = shape_of(teacher)
        config = copy.deepcopy(teacher.config)
        keep_blocks(config, blocks, own.layers)
        student.write(config, family)
        maps = unit_maps(small, big, seed=seed)
        return cls(family, config, TensorAxes.of(skeleton(teacher, config), family).axes, maps)

    def teacher_names(self, name: str, blocks: Callable[[int], Sequence[int]]) -> tuple[str, ...]:
        """The teacher's tensors for the student's `name`: one outside blocks, or those of the blocks given for its."""
        place = self.family.place(name)
        if place is None:
            return (name,)
        before, block, rest = place
        return tuple(f"{before}{one}.{rest}" for one in blocks(block))


def shape_of(teacher: PreTrainedModel) -> tuple[Sizes, Family]:
    """The shape of a model and its family.

    Raises:
        ValueError: an unknown family.
    """
    family = family_of(teacher.config)
    return Sizes.of(teacher.config, family), family
