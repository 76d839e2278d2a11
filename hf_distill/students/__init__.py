"""Building a student from a teacher, changing one in place, and loading one again.

A *builder* makes a new model (`build_student`); a *transform* changes the modules of a model (`transform`). Both are
registered by plugins through the hook `register_students`, and leave a note in the student's configuration.
"""

from __future__ import annotations

from .base import LayerMap, Source, StudentBuild, build_student
from .transforms import load_student, transform

__all__ = ["LayerMap", "Source", "StudentBuild", "build_student", "load_student", "transform"]
