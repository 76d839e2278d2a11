"""Linear maps from the student's width to the teacher's, trained along with the student."""

from __future__ import annotations

from torch import nn

from .linear import Float32Linear

PROJECTIONS = ("auto", "linear", "none")


def make_projections(
    student_width: int, teacher_width: int, num_pairs: int, *, kind: str, shared: bool
) -> nn.ModuleList:
    """One map for each pair of layers, a single one for all of them (`shared`), or identities.

    Args:
        student_width: H of the student.
        teacher_width: H of the teacher.
        num_pairs: pairs of layers.
        kind: "linear", "none", or "auto": linear only where the widths differ.
        shared: whether all pairs use one map.

    Raises:
        ValueError: an unknown kind, or "none" with unequal widths.
    """
    if kind not in PROJECTIONS:
        raise ValueError(f"projection is {kind!r}; expected one of {', '.join(PROJECTIONS)}.")
    if kind == "none" and student_width != teacher_width:
        raise ValueError(
            f'projection is "none", but the student is {student_width} wide and the teacher {teacher_width}; '
            'use "auto" or "linear".'
        )
    num_maps = 1 if shared else num_pairs
    if kind == "none" or (kind == "auto" and student_width == teacher_width):
        return nn.ModuleList(nn.Identity() for _ in range(num_maps))
    return nn.ModuleList(Float32Linear(student_width, teacher_width, bias=False) for _ in range(num_maps))
