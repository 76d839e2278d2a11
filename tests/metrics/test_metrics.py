"""Each metric against somebody else's implementation, and sums of parts against the whole."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from sklearn.metrics import accuracy_score, f1_score

from hf_distill import Plugins
from hf_distill.metrics.accuracy import Accuracy
from hf_distill.metrics.agreement import TeacherAgreement
from hf_distill.metrics.calibration import ExpectedCalibrationError
from hf_distill.metrics.confusion import MOST_CLASSES
from hf_distill.metrics.f1 import F1
from hf_distill.metrics.loyalty import ProbabilityLoyalty
from hf_distill.metrics.perplexity import Perplexity
from hf_distill.metrics.published import PublishedMetric
from hf_distill.metrics.recovery import Recovery

GENERATOR = np.random.default_rng(0)
STUDENT, TEACHER = GENERATOR.normal(size=(2, 200, 5)) * 2
LABELS = GENERATOR.integers(0, 5, 200)


def test_agreement_and_loyalty_are_as_scipy_has_them():
    student, teacher = softmax(STUDENT, -1), softmax(TEACHER, -1)
    agree = np.mean(student.argmax(-1) == teacher.argmax(-1))
    loyalty = 1 - jensenshannon(student, teacher, base=2, axis=-1)  # SciPy's distance is the square root already
    assert TeacherAgreement().measure(STUDENT, TEACHER)["teacher_agreement"] == pytest.approx(agree)
    found = ProbabilityLoyalty().measure(STUDENT, TEACHER)["probability_loyalty"]
    assert found == pytest.approx(loyalty.mean())


def test_loyalty_is_one_for_equal_and_zero_for_disjoint_distributions():
    first, second = np.log(np.eye(2)[[0, 0]] + 1e-300), np.log(np.eye(2)[[1, 1]] + 1e-300)
    assert ProbabilityLoyalty().measure(first, first)["probability_loyalty"] == pytest.approx(1)
    assert ProbabilityLoyalty().measure(first, second)["probability_loyalty"] == pytest.approx(0)


@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_accuracy_and_f1_are_scikit_learns(average):
    found = STUDENT.argmax(-1)
    assert Accuracy().measure(STUDENT, labels=LABELS)["accuracy"] == pytest.approx(accuracy_score(LABELS, found))
    expected = f1_score(LABELS, found, average=average)
    assert F1(average=average).measure(STUDENT, labels=LABELS)["f1"] == pytest.approx(expected)


def reference_calibration(probabilities, labels, num_bins):
    """Guo et al.'s equations 2 and 3, one bin at a time."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    total = 0.0
    for m in range(1, num_bins + 1):
        inside = (confidence > (m - 1) / num_bins) & (confidence <= m / num_bins)
        if inside.any():
            total += inside.sum() / len(labels) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_calibration_is_the_definition_bin_by_bin(num_bins):
    found = ExpectedCalibrationError(num_bins=num_bins).measure(STUDENT, labels=LABELS)
    expected = reference_calibration(softmax(STUDENT, -1), LABELS, num_bins)
    assert found["expected_calibration_error"] == pytest.approx(expected)
    assert expected > 0.1


def test_perplexity_is_a_mean_over_rows():
    expected = torch.nn.functional.cross_entropy(torch.tensor(STUDENT), torch.tensor(LABELS)).exp().item()
    assert Perplexity().measure(STUDENT, labels=LABELS)["perplexity"] == pytest.approx(expected)
    assert Perplexity().measure(np.zeros((3, 50)), labels=[0, 1, 2])["perplexity"] == pytest.approx(50)
    hopeless = np.array([[0.0, 1000.0]])
    assert Perplexity().measure(hopeless, labels=[0])["perplexity"] == math.exp(700)


@pytest.mark.parametrize(
    "metric",
    [Accuracy(), F1(), TeacherAgreement(), ProbabilityLoyalty(), ExpectedCalibrationError(), Perplexity()],
    ids=lambda metric: type(metric).__name__,
)
def test_sums_of_parts_give_what_the_whole_gives(metric):
    tensors = [torch.tensor(STUDENT), torch.tensor(TEACHER), torch.tensor(LABELS)]
    parts = [metric.update(*(tensor[part] for tensor in tensors)) for part in (slice(0, 3), slice(3, 200))]
    sums = {name: sum(part[name] for part in parts).numpy() for name in parts[0]}
    whole = metric.measure(STUDENT, TEACHER, LABELS)
    assert metric.compute(sums, {}) == pytest.approx(whole)


def test_recovery_is_of_a_figure_of_the_same_evaluation():
    metric = Recovery(of="accuracy", teacher=0.9, baseline=0.7)
    assert metric.compute({}, {"accuracy": 0.85}) == {"accuracy_recovery": pytest.approx(0.75)}
    with pytest.raises(
        ValueError, match=r"of 'accuracy', which was not measured; there are loss\. Name the metric before"
    ):
        metric.compute({}, {"loss": 1.0})


ACCURACY_SCRIPT = """
import datasets
import evaluate


class Scores(evaluate.Metric):
    def _info(self):
        column = datasets.Value("int64")
        features = datasets.Features({"predictions": column, "references": column})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, offset=0.0):
        return {"share": sum(p == r for p, r in zip(predictions, references)) / len(references) + offset}
"""


def test_a_metric_that_others_published_gets_the_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_EVALUATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "scores").mkdir()
    (tmp_path / "scores" / "scores.py").write_text(ACCURACY_SCRIPT)
    metric = PublishedMetric(path=str(tmp_path / "scores"), arguments={"offset": 1.0})
    expected = accuracy_score(LABELS, STUDENT.argmax(-1))
    assert metric.measure(STUDENT, labels=LABELS)["share"] == pytest.approx(1 + expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Accuracy().measure(STUDENT), "Accuracy compares with labels, but none are given"),
        (lambda: TeacherAgreement().measure(STUDENT), "TeacherAgreement compares with teacher"),
        (lambda: F1(average="binary"), "average is 'binary'; expected 'macro'"),
        (lambda: F1().measure(np.zeros((1, MOST_CLASSES + 1)), labels=[0]), "1000 at most; there are 1001 columns"),
        (lambda: ExpectedCalibrationError(num_bins=0), "num_bins is 0; expected at least 1"),
        (lambda: Recovery(of="accuracy", teacher=0.5, baseline=0.5), "no gain of which to recover a share"),
        (lambda: Plugins().metrics.create("acuracy"), r"no metric 'acuracy' \(did you mean 'accuracy'\?\)"),
    ],
)
def test_what_a_metric_lacks_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
