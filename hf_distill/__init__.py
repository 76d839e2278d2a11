"""hf_distill: a drop-in `transformers.Trainer` that distils, with plugins.

The public names, each imported when it is first used: `import hf_distill` does not import torch. What it does do is to
let `from_pretrained` load students that were changed, see `hf_distill.loading`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import loading as _loading
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .arguments import DistillationArguments as DistillationArguments
    from .blocks import blocks as blocks
    from .blocks import hidden_width as hidden_width
    from .blocks import num_blocks as num_blocks
    from .data.class_report import ClassReport as ClassReport
    from .data.generators import Predictions as Predictions
    from .data.generators import ProposedRow as ProposedRow
    from .data.generators import RoundContext as RoundContext
    from .data.generators import RoundGenerator as RoundGenerator
    from .data.labelled_texts import load_labelled_texts as load_labelled_texts
    from .data.mixture import MixtureSelector as MixtureSelector
    from .data.on_policy import BatchGenerator as BatchGenerator
    from .data.on_policy import LoopModels as LoopModels
    from .data.on_policy import OnPolicy as OnPolicy
    from .data.selectors import Probe as Probe
    from .data.selectors import Selector as Selector
    from .drivers.capture import capture as capture
    from .drivers.classification import TextClassification as TextClassification
    from .drivers.rounds import RoundsDriver as RoundsDriver
    from .drivers.stage_data import StageData as StageData
    from .drivers.stages import StagesDriver as StagesDriver
    from .latency import BlockShape as BlockShape
    from .latency import LatencyTable as LatencyTable
    from .latency import measure_blocks as measure_blocks
    from .latency import measure_seconds as measure_seconds
    from .latency import sample_inputs as sample_inputs
    from .ledger import Answer as Answer
    from .ledger import Ledger as Ledger
    from .ledger import Usage as Usage
    from .losses.base import BatchLoss as BatchLoss
    from .losses.base import RowLoss as RowLoss
    from .losses.by_row import log_probs_of as log_probs_of
    from .losses.by_row import of_log_probs as of_log_probs
    from .losses.by_row import sum_over_rows as sum_over_rows
    from .losses.divergences import forward_kl as forward_kl
    from .losses.divergences import reverse_kl as reverse_kl
    from .losses.divergences import skewed_kl as skewed_kl
    from .losses.divergences import skewed_reverse_kl as skewed_reverse_kl
    from .losses.matching import FeatureLoss as FeatureLoss
    from .losses.rowwise import rowwise as rowwise
    from .plugins import Plugins as Plugins
    from .registry import PluginError as PluginError
    from .signals import Batch as Batch
    from .signals import Clock as Clock
    from .signals import Rows as Rows
    from .signals import Signal as Signal
    from .signals import SparseRows as SparseRows
    from .students import Blueprint as Blueprint
    from .students import Source as Source
    from .students import StudentBuild as StudentBuild
    from .students import build_student as build_student
    from .students import keep_blocks as keep_blocks
    from .students import load_student as load_student
    from .students import open_weights as open_weights
    from .students import shape_only as shape_only
    from .students import skeleton as skeleton
    from .students import transform as transform
    from .teachers.base import Teacher as Teacher
    from .teachers.cached import CacheTeacher as CacheTeacher
    from .teachers.local import LocalTeacher as LocalTeacher
    from .teachers.text.base import TeacherUnavailable as TeacherUnavailable
    from .teachers.text.base import TextAccount as TextAccount
    from .teachers.text.base import TextRequest as TextRequest
    from .teachers.text.base import TextTeacher as TextTeacher
    from .teachers.text.budget import Budget as Budget
    from .teachers.text.budget import BudgetExhausted as BudgetExhausted
    from .teachers.text.endpoint import EndpointTeacher as EndpointTeacher
    from .teachers.text.local import LocalTextTeacher as LocalTextTeacher
    from .teachers.text.making import make_text_teacher as make_text_teacher
    from .trainer import DistillationTrainer as DistillationTrainer
    from .views import TeacherView as TeacherView

__version__ = "0.1.0"

# Where each public name stands; the imports above say the same to type checkers and editors.
_MODULES = {
    ".arguments": ["DistillationArguments"],
    ".blocks": ["blocks", "hidden_width", "num_blocks"],
    ".data.class_report": ["ClassReport"],
    ".data.generators": ["Predictions", "ProposedRow", "RoundContext", "RoundGenerator"],
    ".data.labelled_texts": ["load_labelled_texts"],
    ".data.mixture": ["MixtureSelector"],
    ".data.on_policy": ["BatchGenerator", "LoopModels", "OnPolicy"],
    ".data.selectors": ["Probe", "Selector"],
    ".drivers.capture": ["capture"],
    ".drivers.classification": ["TextClassification"],
    ".drivers.rounds": ["RoundsDriver"],
    ".drivers.stage_data": ["StageData"],
    ".drivers.stages": ["StagesDriver"],
    ".latency": ["BlockShape", "LatencyTable", "measure_blocks", "measure_seconds", "sample_inputs"],
    ".ledger": ["Answer", "Ledger", "Usage"],
    ".losses.base": ["BatchLoss", "RowLoss"],
    ".losses.by_row": ["log_probs_of", "of_log_probs", "sum_over_rows"],
    ".losses.divergences": ["forward_kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl"],
    ".losses.matching": ["FeatureLoss"],
    ".losses.rowwise": ["rowwise"],
    ".plugins": ["Plugins"],
    ".registry": ["PluginError"],
    ".signals": ["Batch", "Clock", "Rows", "Signal", "SparseRows"],
    ".students": [
        *("Blueprint", "Source", "StudentBuild", "build_student", "keep_blocks", "load_student", "open_weights"),
        *("shape_only", "skeleton", "transform"),
    ],
    ".teachers.base": ["Teacher"],
    ".teachers.cached": ["CacheTeacher"],
    ".teachers.local": ["LocalTeacher"],
    ".teachers.text.base": ["TeacherUnavailable", "TextAccount", "TextRequest", "TextTeacher"],
    ".teachers.text.budget": ["Budget", "BudgetExhausted"],
    ".teachers.text.endpoint": ["EndpointTeacher"],
    ".teachers.text.local": ["LocalTextTeacher"],
    ".teachers.text.making": ["make_text_teacher"],
    ".trainer": ["DistillationTrainer"],
    ".views": ["TeacherView"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Answer",
    "Batch",
    "BatchGenerator",
    "BatchLoss",
    "BlockShape",
    "Blueprint",
    "Budget",
    "BudgetExhausted",
    "CacheTeacher",
    "ClassReport",
    "Clock",
    "DistillationArguments",
    "DistillationTrainer",
    "EndpointTeacher",
    "FeatureLoss",
    "LatencyTable",
    "Ledger",
    "LocalTeacher",
    "LocalTextTeacher",
    "LoopModels",
    "MixtureSelector",
    "OnPolicy",
    "PluginError",
    "Plugins",
    "Predictions",
    "Probe",
    "ProposedRow",
    "RoundContext",
    "RoundGenerator",
    "RoundsDriver",
    "RowLoss",
    "Rows",
    "Selector",
    "Signal",
    "Source",
    "SparseRows",
    "StageData",
    "StagesDriver",
    "StudentBuild",
    "Teacher",
    "TeacherUnavailable",
    "TeacherView",
    "TextAccount",
    "TextClassification",
    "TextRequest",
    "TextTeacher",
    "Usage",
    "blocks",
    "build_student",
    "capture",
    "forward_kl",
    "hidden_width",
    "hookimpl",
    "keep_blocks",
    "load_labelled_texts",
    "load_student",
    "log_probs_of",
    "make_text_teacher",
    "measure_blocks",
    "measure_seconds",
    "num_blocks",
    "of_log_probs",
    "open_weights",
    "reverse_kl",
    "rowwise",
    "sample_inputs",
    "shape_only",
    "skeleton",
    "skewed_kl",
    "skewed_reverse_kl",
    "sum_over_rows",
    "transform",
]


_loading.install()


class _Package(ModuleType):
    """Keeps `hf_distill.blocks` the function: importing the module of that name would put itself in its place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
