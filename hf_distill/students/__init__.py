"""Building a student from a teacher, changing one in place, and loading one again.

A *builder* makes a new model (`build_student`); a *transform* changes the modules of a model (`transform`). Both are
registered by plugins through the hook `register_students`, and leave a note in the student's configuration.
"""

from __future__ import annotations

from .base import build_student
from .blueprint import Blueprint, LayerMap, Source, StudentBuild, shape_only
from .configs import keep_blocks, skeleton
from .opening import open_weights
from .transforms import load_student, transform

__all__ = [
    "Blueprint",
    "LayerMap",
    "Source",
    "StudentBuild",
    "build_student",
    "keep_blocks",
    "load_student",
    "open_weights",
    "shape_only",
    "skeleton",
    "transform",
]
