"""Every property of the kit catches a loss that is broken in just that way, and lets the healthy one pass."""

from __future__ import annotations

import numpy as np
import pytest

from hf_distill.testing import conformance
from hf_distill.testing.batch_properties import BATCH_PROPERTIES
from hf_distill.testing.row_properties import ROW_PROPERTIES
from hf_distill.testing.training_properties import TRAINING_PROPERTIES

from . import mutants


def log_softmax(logits):
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def kl(student, teacher):
    p, q = log_softmax(teacher), log_softmax(student)
    return (np.exp(p) * (p - q)).sum(-1)


def squares(student, teacher, batch):
    ours, theirs = (signal.features["hidden.-1"].numpy() for signal in (student, teacher))
    return (((ours - theirs) ** 2).mean(-1) * batch.token_mask.numpy()).sum()


ROW_MUTANTS = [
    (mutants.reversed_kl, "reference_value"),
    (mutants.squared_temperature_on_the_value, "finite_difference_gradient"),
    (mutants.Disconnected, "finite_difference_gradient"),
    (mutants.cross_entropy_of_teacher, "zero_at_equality"),
    (mutants.label_mean, "all_rows_masked"),
    (mutants.standardised, "one_row"),
    (mutants.half, "half_precision"),
    (mutants.drops_first_class, "vocabulary_permutation"),
    (mutants.mean_of_means, "chunked_as_whole"),
    (mutants.mean_of_means, "cut_invariance"),
    (mutants.MovesInForward, "chunked_as_whole"),
    (mutants.over_kept, "sparse_as_dense"),
    (mutants.asks_the_device, "no_host_sync"),
    (mutants.picks_rows, "no_host_sync"),
    (mutants.swallows, "error_names_plugin"),
    (mutants.UnregisteredBuffer, "state_round_trip"),
]
BATCH_MUTANTS = [
    (mutants.OtherPower, "reference_value"),
    (mutants.StoppedGradient, "finite_difference_gradient"),
    (mutants.PullsToZero, "zero_at_equality"),
    (mutants.EmptyMean, "all_rows_masked"),
    (mutants.ExampleDeviation, "one_example"),
    (mutants.CountsPadding, "masked_positions"),
    (mutants.UnshiftedMask, "masked_positions"),
    (mutants.HalfFeatures, "half_precision"),
    (mutants.PicksTokens, "no_host_sync"),
    (mutants.Forgiving, "error_names_plugin"),
    (mutants.MeanOfMeans, "cut_invariance"),
    (mutants.GrowsTheStudent, "state_round_trip"),
]

test_healthy_row_loss = conformance(mutants.kl, reference=kl)
test_healthy_batch_loss = conformance(mutants.Features, reference=squares)
test_column = conformance(
    mutants.Weighted,
    columns={"weight": [0.5, 1.0, 2.0, 0.0]},
    reference=lambda student, teacher, weight: kl(student, teacher) * weight,
)
test_two_teachers = conformance(
    mutants.between, num_teachers=2, reference=lambda student, one, other: kl(student, (one + other) / 2)
)


@pytest.mark.parametrize(("mutant", "name"), ROW_MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_row_loss_fails_the_property_that_it_breaks(mutant, name):
    with pytest.raises(AssertionError, match=f"lacks '{name}'") as failure:
        conformance(mutant, reference=kl)(name)
    assert isinstance(failure.value.__cause__, AssertionError), "the mutant does not run at all"


@pytest.mark.parametrize(("mutant", "name"), BATCH_MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_batch_loss_fails_the_property_that_it_breaks(mutant, name):
    with pytest.raises(AssertionError, match=f"lacks '{name}'") as failure:
        conformance(mutant, reference=squares)(name)
    assert isinstance(failure.value.__cause__, AssertionError), "the mutant does not run at all"


@pytest.mark.parametrize(
    ("properties", "caught"), [(ROW_PROPERTIES, ROW_MUTANTS), (BATCH_PROPERTIES, BATCH_MUTANTS)], ids=["row", "batch"]
)
def test_every_property_has_a_mutant(properties, caught):
    assert {*properties, *TRAINING_PROPERTIES} == {name for _, name in caught}


@pytest.mark.parametrize("name", ["one_row", "no_host_sync"])
def test_a_stated_lack_of_a_property_that_is_there_is_noticed(name):
    with pytest.raises(AssertionError, match=rf"states that it lacks '{name}' \(by design\), but has it"):
        conformance(mutants.kl, lacks={name: "by design"})(name)


def test_a_stated_lack_is_accepted():
    conformance(mutants.standardised, lacks={"one_row": "a deviation over rows"})("one_row")


def test_stated_lacks_that_are_misspelt_unchecked_or_without_reason_are_refused():
    with pytest.raises(ValueError, match=r"'one_rwo', which is not checked \(did you mean 'one_row'\?\)\. Checked: "):
        conformance(mutants.kl, lacks={"one_rwo": "why"})
    with pytest.raises(ValueError, match="lacks 'reference_value', which is not checked"):
        conformance(mutants.kl, lacks={"reference_value": "there is none"})
    with pytest.raises(ValueError, match="lacks 'one_row'; say why"):
        conformance(mutants.kl, lacks={"one_row": " "})


def test_options_of_a_finished_object_are_refused():
    with pytest.raises(ValueError, match="takes no options"):
        conformance(mutants.Features(), options={"gain": 2})


def test_a_column_of_another_length_is_refused():
    with pytest.raises(ValueError, match="'weight' has 3 values; the kit has 4 examples"):
        conformance(mutants.Weighted, columns={"weight": [1, 2, 3]})
