"""Losses that use less common parts of the contract name their mixins; those that forget are told."""

from __future__ import annotations

import pytest

from hf_distill import BatchLoss, GradientMergingMixin, NestedBatchMixin, RowLoss, TeacherViewMixin, TrainDatasetMixin
from hf_distill.losses.mixins import check_mixins

MEMBERS = {
    NestedBatchMixin: {"student_parts": ("query",)},
    GradientMergingMixin: {"merge_gradients": lambda self, gradients, other_gradients: gradients},
    TeacherViewMixin: {"make_teacher_view": lambda self, tokenizer, teacher_tokenizer, *, teacher: None},
    TrainDatasetMixin: {"on_train_dataset": lambda self, dataset: None},
}


@pytest.mark.parametrize("mixin", MEMBERS)
@pytest.mark.parametrize("base", [BatchLoss, RowLoss])
def test_a_loss_that_forgets_its_mixin_is_refused(mixin, base):
    check_mixins(type("Whole", (mixin, base), MEMBERS[mixin])(), "whole")
    (member,) = MEMBERS[mixin]
    message = rf"'mine' defines {member}, .* Write: class Forgetful\({mixin.__name__}, {base.__name__}\)"
    with pytest.raises(ValueError, match=message):
        check_mixins(type("Forgetful", (base,), MEMBERS[mixin])(), "mine")


@pytest.mark.parametrize(
    ("mixin", "method", "arguments"),
    [
        (TeacherViewMixin, "make_teacher_view", {"tokenizer": None, "teacher_tokenizer": None, "teacher": "teacher"}),
        (TrainDatasetMixin, "on_train_dataset", {"dataset": None}),
    ],
)
def test_a_mixin_without_its_method_says_what_is_missing(mixin, method, arguments):
    loss = type("Empty", (mixin, BatchLoss), {})()
    with pytest.raises(NotImplementedError, match=f"Empty does not define {method}"):
        getattr(loss, method)(**arguments)


def test_a_plain_loss_has_none_of_the_members_of_mixins():
    plain = set(dir(BatchLoss)) | set(dir(RowLoss))
    assert not plain & {"student_parts", "teacher_parts", "predictions", "separate_gradients", "merge_gradients"}
    assert not plain & {"view", "make_teacher_view", "on_train_dataset"}
