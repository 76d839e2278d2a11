"""How much of what the teacher is better at the student has learned."""

from __future__ import annotations


def recovery(student: float, teacher: float, baseline: float) -> float:
    """Share of the teacher's gain over a baseline that the student recovers: ``(s - b) / (t - b)``.

    Works for measures where more is better and where less is (both differences change sign). 1 is as good as the
    teacher, 0 no better than the baseline; values outside [0, 1] are meant to be seen.

    Args:
        student: the distilled student's measure.
        teacher: the teacher's.
        baseline: that of the same student trained without the teacher.

    Raises:
        ValueError: teacher and baseline are equal: there is no gain to recover.
    """
    if teacher == baseline:
        raise ValueError(f"Teacher and baseline both measure {teacher}: there is no gain of which to recover a share.")
    return (student - baseline) / (teacher - baseline)
