import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from hf_distill.metrics.agreement import TeacherAgreement

GENERATOR = np.random.default_rng(0)


def test_distributions_give_agreement_and_loyalty_as_scipy_has_them():
    student, teacher = softmax(GENERATOR.normal(size=(2, 20, 5)) * 2, -1)
    result = TeacherAgreement().compute(predictions=student, references=teacher)
    agree = [int(np.argmax(p) == np.argmax(q)) for p, q in zip(student, teacher, strict=True)]
    loyalty = 1 - jensenshannon(student, teacher, base=2, axis=-1)  # SciPy's distance is the square root already
    assert result["top1_agreement"] == pytest.approx(np.mean(agree))
    assert result["probability_loyalty"] == pytest.approx(np.mean(loyalty))


def test_loyalty_is_one_for_equal_and_zero_for_disjoint_distributions():
    one, other = np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]
    assert TeacherAgreement().compute(predictions=one, references=one)["probability_loyalty"] == pytest.approx(1)
    assert TeacherAgreement().compute(predictions=one, references=other)["probability_loyalty"] == pytest.approx(0)


def test_classes_alone_give_agreement_alone_and_batches_add_up():
    metric = TeacherAgreement()
    metric.add_batch(predictions=[1, 2, 3], references=[1, 0, 3])
    metric.add_batch(predictions=[0], references=[1])
    assert metric.compute() == {"top1_agreement": 0.5}


def test_logits_and_different_numbers_of_classes_are_errors():
    with pytest.raises(ValueError, match="apply softmax"):
        TeacherAgreement().compute(predictions=[[2.0, -1.0]], references=[[0.5, 0.5]])
    with pytest.raises(ValueError, match=r"\(1, 3\), the teacher's \(1, 2\)"):
        TeacherAgreement().compute(predictions=[[0.5, 0.5, 0.0]], references=[[0.5, 0.5]])
