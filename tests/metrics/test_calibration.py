import numpy as np
import pytest
from scipy.special import softmax

from hf_distill.metrics.calibration import ExpectedCalibrationError


def reference(probabilities, labels, n_bins):
    """Guo et al.'s equations 2 and 3, one bin at a time."""
    confidence = probabilities.max(1)
    correct = probabilities.argmax(1) == labels
    total = 0.0
    for m in range(1, n_bins + 1):
        inside = (confidence > (m - 1) / n_bins) & (confidence <= m / n_bins)
        if inside.any():
            total += inside.sum() / len(labels) * abs(correct[inside].mean() - confidence[inside].mean())
    return total


@pytest.mark.parametrize("n_bins", [1, 10, 15])
def test_error_is_that_of_the_definition_bin_by_bin(n_bins):
    generator = np.random.default_rng(0)
    probabilities = softmax(generator.normal(size=(500, 4)) * 2, -1)
    labels = generator.integers(0, 4, 500)
    result = ExpectedCalibrationError().compute(predictions=probabilities, references=labels, n_bins=n_bins)
    assert result["expected_calibration_error"] == pytest.approx(reference(probabilities, labels, n_bins))
    assert result["expected_calibration_error"] > 0.1


def test_fifteen_bins_are_the_default():
    generator = np.random.default_rng(1)
    probabilities = softmax(generator.normal(size=(200, 3)), -1)
    labels = generator.integers(0, 3, 200)
    result = ExpectedCalibrationError().compute(predictions=probabilities, references=labels)
    assert result["expected_calibration_error"] == pytest.approx(reference(probabilities, labels, 15))


def test_confidence_on_an_edge_belongs_to_the_bin_below():
    # 0.75 shares the bin (0.5, 0.75] with 0.6: (0.75 + 0.6 - 1) / 2; in the next bin the errors would add up.
    result = ExpectedCalibrationError().compute(predictions=[[0.75, 0.25], [0.6, 0.4]], references=[0, 1], n_bins=4)
    assert result["expected_calibration_error"] == pytest.approx(0.175)


def test_certain_and_right_is_calibrated_and_certain_and_wrong_is_not():
    metric = ExpectedCalibrationError()
    assert metric.compute(predictions=[[1.0, 0.0]], references=[0])["expected_calibration_error"] == 0
    assert metric.compute(predictions=[[1.0, 0.0]], references=[1])["expected_calibration_error"] == 1


def test_logits_and_no_bins_are_errors():
    with pytest.raises(ValueError, match="apply softmax"):
        ExpectedCalibrationError().compute(predictions=[[3.0, 1.0]], references=[0])
    with pytest.raises(ValueError, match="n_bins is 0"):
        ExpectedCalibrationError().compute(predictions=[[0.5, 0.5]], references=[0], n_bins=0)
