"""What others build on. To add a name, add it here in the same change and to CHANGELOG.md under "Added".

To rename or remove one, say old and new name in CHANGELOG.md under "Changed", and raise the minor version.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import hf_distill
from hf_distill import hookspecs
from hf_distill.plugins.manager import _KINDS

PUBLIC_NAMES = [
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
HOOKS = {
    "register_kinds": ["register"],
    "register_losses": ["register"],
    "register_teachers": ["register"],
    "register_selectors": ["register"],
    "register_generators": ["register"],
    "register_students": ["register"],
    "register_metrics": ["register"],
    "register_commands": ["register"],
    "training_started": ["trainer"],
    "training_finished": ["trainer"],
}
KINDS = [
    "commands command",
    "generators batch",
    "losses loss",
    "metrics metric",
    "selectors selector",
    "students builder",
    "students transform",
    "teachers signal",
]


def test_public_names_do_not_change_by_accident():
    assert hf_distill.__all__ == PUBLIC_NAMES


def test_hooks_and_their_arguments_do_not_change_by_accident():
    found = {
        name: list(inspect.signature(function).parameters)
        for name, function in vars(hookspecs).items()
        if hasattr(function, "hf_distill_spec")
    }
    assert found == HOOKS


def test_the_cores_kinds_of_components_do_not_change_by_accident():
    assert [f"{family} {kind}" for family, kind in sorted(_KINDS)] == KINDS


@pytest.mark.parametrize("name", PUBLIC_NAMES)
def test_every_public_name_can_be_imported_and_is_documented(name):
    value = getattr(hf_distill, name)
    if name != "hookimpl":  # an instance of pluggy's marker
        assert inspect.getdoc(value)


def test_type_checkers_see_the_same_names_in_the_same_places():
    tree = ast.parse(Path(hf_distill.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: f".{node.module}" for node in block.body for alias in node.names}
    assert seen == hf_distill._HOMES
    assert {*seen, "hookimpl"} == set(PUBLIC_NAMES)


def test_a_misspelt_name_is_an_attribute_error_not_none():
    with pytest.raises(AttributeError, match="DistilationTrainer"):
        hf_distill.DistilationTrainer  # noqa: B018 - the look-up is what fails
    assert set(PUBLIC_NAMES) <= set(dir(hf_distill))
