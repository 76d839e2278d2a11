"""hf_distill: a drop-in `transformers.Trainer` that distils, with plugins.

The public names, each imported when it is first used: `import hf_distill` imports no torch and changes nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__ as __version__
from .hookspecs import hookimpl

if TYPE_CHECKING:
    from .arguments import DistillationArguments as DistillationArguments
    from .batch.signals import IGNORE_INDEX as IGNORE_INDEX
    from .batch.signals import Batch as Batch
    from .batch.signals import Rows as Rows
    from .batch.signals import Signal as Signal
    from .batch.signals import SparseRows as SparseRows
    from .batch.signals import StepInfo as StepInfo
    from .batch.views import TeacherView as TeacherView
    from .cache.capture import capture as capture
    from .cache.teacher import CacheTeacher as CacheTeacher
    from .data.labelled_texts import load_labelled_texts as load_labelled_texts
    from .data.language_modeling import load_text_data as load_text_data
    from .data.mixture import MixtureSelector as MixtureSelector
    from .data.on_policy import BatchGenerator as BatchGenerator
    from .data.on_policy import LoopModels as LoopModels
    from .data.on_policy import OnPolicy as OnPolicy
    from .data.selectors import Probe as Probe
    from .data.selectors import Selector as Selector
    from .data.tasks import load_training_data as load_training_data
    from .data.training_data import TrainingData as TrainingData
    from .drivers.stages import StagesDriver as StagesDriver
    from .drivers.stages import StagesResult as StagesResult
    from .losses.base import BatchLoss as BatchLoss
    from .losses.base import RowLoss as RowLoss
    from .losses.divergences import forward_kl as forward_kl
    from .losses.divergences import reverse_kl as reverse_kl
    from .losses.divergences import skewed_kl as skewed_kl
    from .losses.divergences import skewed_reverse_kl as skewed_reverse_kl
    from .losses.linear import Float32Linear as Float32Linear
    from .losses.matching import FeatureLoss as FeatureLoss
    from .losses.mixins import GradientMergingMixin as GradientMergingMixin
    from .losses.mixins import NestedBatchMixin as NestedBatchMixin
    from .losses.mixins import TeacherViewMixin as TeacherViewMixin
    from .losses.mixins import TrainDatasetMixin as TrainDatasetMixin
    from .losses.papers import Paper as Paper
    from .losses.papers import paper_of as paper_of
    from .losses.row_functions import row_loss as row_loss
    from .losses.row_sums import differentiable_log_probs as differentiable_log_probs
    from .losses.row_sums import log_probs_of as log_probs_of
    from .losses.row_sums import weighted_row_sum as weighted_row_sum
    from .losses.rowwise import as_float32 as as_float32
    from .losses.rowwise import rowwise as rowwise
    from .metrics.base import Metric as Metric
    from .models.heads import Head as Head
    from .models.layers import blocks as blocks
    from .models.layers import hidden_width as hidden_width
    from .models.layers import match_layers as match_layers
    from .models.layers import num_blocks as num_blocks
    from .plugins.manager import Plugins as Plugins
    from .plugins.registry import PluginError as PluginError
    from .rounds.class_report import ClassReport as ClassReport
    from .rounds.classification import TextClassification as TextClassification
    from .rounds.driver import RoundsDriver as RoundsDriver
    from .rounds.fresh_classifier import fresh_classifier as fresh_classifier
    from .rounds.generators import Predictions as Predictions
    from .rounds.generators import ProposedRow as ProposedRow
    from .rounds.generators import RoundContext as RoundContext
    from .rounds.generators import RoundGenerator as RoundGenerator
    from .serving.answers import Answer as Answer
    from .serving.answers import Usage as Usage
    from .serving.budget import Budget as Budget
    from .serving.budget import BudgetExhausted as BudgetExhausted
    from .serving.endpoint import EndpointTeacher as EndpointTeacher
    from .serving.factory import make_text_teacher as make_text_teacher
    from .serving.ledger import Ledger as Ledger
    from .serving.local import LocalTextTeacher as LocalTextTeacher
    from .serving.text_teacher import TeacherUnavailable as TeacherUnavailable
    from .serving.text_teacher import TextAccount as TextAccount
    from .serving.text_teacher import TextRequest as TextRequest
    from .serving.text_teacher import TextTeacher as TextTeacher
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
    from .students.from_pretrained import disable_from_pretrained as disable_from_pretrained
    from .students.from_pretrained import enable_from_pretrained as enable_from_pretrained
    from .students.latency import BlockShape as BlockShape
    from .students.latency import LatencyTable as LatencyTable
    from .students.latency import measure_blocks as measure_blocks
    from .students.latency import measure_seconds as measure_seconds
    from .students.latency import sample_inputs as sample_inputs
    from .teachers.base import Teacher as Teacher
    from .teachers.local import LocalTeacher as LocalTeacher
    from .trainer import DistillationTrainer as DistillationTrainer

# Where each public name stands; the imports above say the same to type checkers and editors.
_MODULES = {
    ".arguments": ["DistillationArguments"],
    ".batch.signals": ["Batch", "IGNORE_INDEX", "Rows", "Signal", "SparseRows", "StepInfo"],
    ".batch.views": ["TeacherView"],
    ".cache.capture": ["capture"],
    ".cache.teacher": ["CacheTeacher"],
    ".data.labelled_texts": ["load_labelled_texts"],
    ".data.mixture": ["MixtureSelector"],
    ".data.on_policy": ["BatchGenerator", "LoopModels", "OnPolicy"],
    ".data.selectors": ["Probe", "Selector"],
    ".data.language_modeling": ["load_text_data"],
    ".data.tasks": ["load_training_data"],
    ".data.training_data": ["TrainingData"],
    ".drivers.stages": ["StagesDriver", "StagesResult"],
    ".losses.base": ["BatchLoss", "RowLoss"],
    ".losses.divergences": ["forward_kl", "reverse_kl", "skewed_kl", "skewed_reverse_kl"],
    ".losses.linear": ["Float32Linear"],
    ".losses.matching": ["FeatureLoss"],
    ".losses.mixins": ["GradientMergingMixin", "NestedBatchMixin", "TeacherViewMixin", "TrainDatasetMixin"],
    ".losses.papers": ["Paper", "paper_of"],
    ".losses.row_functions": ["row_loss"],
    ".losses.row_sums": ["differentiable_log_probs", "log_probs_of", "weighted_row_sum"],
    ".losses.rowwise": ["as_float32", "rowwise"],
    ".metrics.base": ["Metric"],
    ".models.heads": ["Head"],
    ".models.layers": ["blocks", "hidden_width", "match_layers", "num_blocks"],
    ".plugins.manager": ["Plugins"],
    ".plugins.registry": ["PluginError"],
    ".rounds.class_report": ["ClassReport"],
    ".rounds.classification": ["TextClassification"],
    ".rounds.driver": ["RoundsDriver"],
    ".rounds.fresh_classifier": ["fresh_classifier"],
    ".rounds.generators": ["Predictions", "ProposedRow", "RoundContext", "RoundGenerator"],
    ".serving.answers": ["Answer", "Usage"],
    ".serving.budget": ["Budget", "BudgetExhausted"],
    ".serving.endpoint": ["EndpointTeacher"],
    ".serving.factory": ["make_text_teacher"],
    ".serving.ledger": ["Ledger"],
    ".serving.local": ["LocalTextTeacher"],
    ".serving.text_teacher": ["TeacherUnavailable", "TextAccount", "TextRequest", "TextTeacher"],
    ".students": [
        "Blueprint",
        "Source",
        "StudentBuild",
        "build_student",
        "keep_blocks",
        "load_student",
        "open_weights",
        "shape_only",
        "skeleton",
        "transform",
    ],
    ".students.from_pretrained": ["disable_from_pretrained", "enable_from_pretrained"],
    ".students.latency": ["BlockShape", "LatencyTable", "measure_blocks", "measure_seconds", "sample_inputs"],
    ".teachers.base": ["Teacher"],
    ".teachers.local": ["LocalTeacher"],
    ".trainer": ["DistillationTrainer"],
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "IGNORE_INDEX",
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
    "DistillationArguments",
    "DistillationTrainer",
    "EndpointTeacher",
    "FeatureLoss",
    "Float32Linear",
    "GradientMergingMixin",
    "Head",
    "LatencyTable",
    "Ledger",
    "LocalTeacher",
    "LocalTextTeacher",
    "LoopModels",
    "Metric",
    "MixtureSelector",
    "NestedBatchMixin",
    "OnPolicy",
    "Paper",
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
    "StagesDriver",
    "StagesResult",
    "StepInfo",
    "StudentBuild",
    "Teacher",
    "TeacherUnavailable",
    "TeacherView",
    "TeacherViewMixin",
    "TextAccount",
    "TextClassification",
    "TextRequest",
    "TextTeacher",
    "TrainDatasetMixin",
    "TrainingData",
    "Usage",
    "as_float32",
    "blocks",
    "build_student",
    "capture",
    "differentiable_log_probs",
    "disable_from_pretrained",
    "enable_from_pretrained",
    "forward_kl",
    "fresh_classifier",
    "hidden_width",
    "hookimpl",
    "keep_blocks",
    "load_labelled_texts",
    "load_student",
    "load_text_data",
    "load_training_data",
    "log_probs_of",
    "make_text_teacher",
    "match_layers",
    "measure_blocks",
    "measure_seconds",
    "num_blocks",
    "open_weights",
    "paper_of",
    "reverse_kl",
    "row_loss",
    "rowwise",
    "sample_inputs",
    "shape_only",
    "skeleton",
    "skewed_kl",
    "skewed_reverse_kl",
    "transform",
    "weighted_row_sum",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_HOMES[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
