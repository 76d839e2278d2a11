"""Losses on logits against the authors' code, identities and what they say of themselves."""

import math

import pytest
import torch
from hf_distill_classification.binary_kl import binary_kl
from hf_distill_classification.dist import DIST, dist
from hf_distill_classification.dkd import dkd
from hf_distill_classification.ferkd import ferkd
from hf_distill_classification.standardized_kl import standardize, standardized_kl

from hf_distill import DistillationTrainer, Rows, Signal, SparseRows, forward_kl
from hf_distill.testing import tiny_model

LABELS = torch.tensor([2, 0, 4, 1])


@pytest.fixture
def models(waves):
    return waves(0.0), waves(1.0)


# dkd_loss of mdistiller/distillers/DKD.py in megvii-research/mdistiller, which multiplies by the squared temperature.
@pytest.mark.parametrize(
    ("temperature", "alpha", "beta", "expected"),
    [
        (1, 1.0, 8.0, 6.759439497565075),
        (4, 1.0, 8.0, 17.14617548689948),
        (1, 0.5, 2.0, 1.8207699924107834),
        (4, 0.5, 2.0, 4.459218282584985),
    ],
)
def test_dkd_is_that_of_the_authors_code(models, temperature, alpha, beta, expected):
    student, teacher = (logits / temperature for logits in models)
    values = dkd(student, teacher, LABELS, temperature, alpha=alpha, beta=beta)
    assert values.mean().item() * temperature**2 == pytest.approx(expected, rel=1e-12)


# dkd_loss and kd_loss of mdistiller/distillers in sunshangquan/logit-standardization-KD.
def test_divergences_of_standardised_logits_are_those_of_the_authors_code(models):
    temperature = 2.0
    halves = [logits / temperature for logits in models]
    values = dkd(*halves, LABELS, temperature, standardize=True)
    assert values.mean().item() * 4 == pytest.approx(3.3298144998965022, rel=1e-6)  # 1e-7 beside the deviation
    for temperature, expected in ((1.0, 0.46357443595232944), (2.0, 0.5251891531757632), (4.0, 0.5415706898146672)):
        values = standardized_kl(*(logits / temperature for logits in models), temperature)
        assert values.mean().item() * temperature**2 == pytest.approx(expected, rel=1e-6)


def test_dkd_with_the_teachers_mass_of_other_classes_as_beta_is_the_forward_kl(models):
    student, teacher = models
    for row, label in enumerate(LABELS):
        rest = 1 - teacher[row].softmax(-1)[label].item()
        rows = (x[row : row + 1] for x in (student, teacher, LABELS))
        value = dkd(*rows, 1.0, alpha=1.0, beta=rest)
        torch.testing.assert_close(value, forward_kl(student[row : row + 1], teacher[row : row + 1]))


def test_a_teacher_that_is_sure_gives_finite_values_and_gradients():
    student = torch.tensor([[300.0, -200.0, 0.0], [0.0, 0.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[500.0, 0.0, -torch.inf], [-torch.inf, 1.0, 2.0]])
    values = dkd(student, teacher, torch.tensor([0, 0]), 1.0)
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert values.isfinite().all()
    assert gradient.isfinite().all()


def test_a_student_of_another_scale_and_offset_costs_nothing_once_standardised(models):
    _, teacher = models
    assert standardized_kl(7 * teacher + 3, teacher, 2.0).abs().max() < 1e-6
    assert forward_kl(7 * teacher + 3, teacher).max() > 0.1
    torch.testing.assert_close(standardize(teacher).std(-1), torch.ones(4).double())


# BinaryKLNorm of distiller_zoo/BinaryKLNorm.py in penghui-yang/DHKD.
@pytest.mark.parametrize(
    ("temperature", "expected"), [(1, 2.648991697549228), (2, 3.064626105652229), (4, 3.2084515184493667)]
)
def test_the_binary_divergence_is_that_of_the_authors_code(models, temperature, expected):
    values = binary_kl(*(logits / temperature for logits in models))
    assert values.mean().item() * temperature**2 == pytest.approx(expected, rel=1e-12)


def test_the_binary_divergence_keeps_its_slope_far_from_the_teacher_and_ignores_excluded_classes():
    student = torch.tensor([[1000.0, -1000.0, 3.0]], requires_grad=True)
    values = binary_kl(student, torch.tensor([[0.0, 0.0, -torch.inf]]))
    assert values.item() == pytest.approx(2 * (500 - math.log(2)))
    (gradient,) = torch.autograd.grad(values, student)
    assert gradient.tolist() == [[0.5, -0.5, 0.0]]


# DIST of segmentation/losses/dist_kd.py in hunto/DIST_KD.
def test_correlations_are_those_of_the_authors_code(models):
    q, p = (logits.softmax(-1) for logits in models)
    inter, intra = dist(q, p, torch.ones(4, dtype=torch.bool))
    assert 2 * inter.item() / 4 == pytest.approx(1.8449495124822912, rel=1e-9)
    assert 2 * intra.item() == pytest.approx(1.7537924259105706, rel=1e-9)


def test_rows_that_do_not_count_are_left_out_of_the_correlations(models):
    q, p = (logits.softmax(-1) for logits in models)
    present = torch.tensor([True, False, True, True])
    for found, expected in zip(dist(q, p, present), dist(q[present], p[present], present[present]), strict=True):
        torch.testing.assert_close(found, expected)


def test_logits_of_all_classes_are_read_and_a_signal_without_them_is_refused(models):
    from hf_distill_classification.examples import logits_of

    sparse = SparseRows(torch.tensor([[0]]), torch.tensor([[-0.1]]), torch.tensor([-2.0]), 5)
    for signal, found in ((Signal(), "nothing"), (Signal(rows=sparse), "a few probabilities")):
        with pytest.raises(ValueError, match=f"dist reads the logits of all classes, but the teacher gives {found}"):
            logits_of(signal, "dist", whose="teacher")
    assert logits_of(Signal(rows=Rows(logits=models[0])), "dist", whose="student") is models[0]


CONFIDENCES = torch.tensor([0.3, 0.5, 0.7, 0.98])


def confident_teacher():
    """Logits whose largest probability is each of `CONFIDENCES`, always of class 1."""
    rest = ((1 - CONFIDENCES) / 4)[:, None].expand(-1, 5).clone()
    rest[:, 1] = CONFIDENCES
    return rest.log()


def test_the_target_follows_the_teachers_confidence():
    student = torch.randn(4, 5)
    values = ferkd(student, confident_teacher(), LABELS, lower=0.4, middle=0.6, upper=0.95, smoothing=0.2)
    log_q = student.log_softmax(-1)
    smoothed = torch.full((5,), 0.05)
    smoothed[LABELS[1]] = 0.8
    expected = [0, -(smoothed * log_q[1]).sum(), -(confident_teacher()[2].exp() * log_q[2]).sum(), 0]
    torch.testing.assert_close(values, torch.tensor([float(value) for value in expected]))


def test_examples_without_a_label_count_only_where_the_teacher_is_confident():
    unlabelled = torch.full_like(LABELS, -100)
    values = ferkd(torch.randn(4, 5), confident_teacher(), unlabelled, lower=0.0, middle=0.6)
    assert (values > 0).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lower": 0.5, "middle": 0.4}, "Thresholds are 0.5, 0.4, 1.0"),
        ({"lower": 0.1, "middle": 0.4, "upper": 1.5}, "Thresholds are"),
        ({"lower": 0.1, "middle": 0.4, "smoothing": 1.0}, "smoothing is 1.0"),
    ],
)
def test_thresholds_and_smoothing_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ferkd(torch.zeros(1, 5), torch.zeros(1, 5), torch.zeros(1).long(), **options)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature is 0"):
        DIST(temperature=0)


def test_a_batch_without_the_labels_that_dkd_reads_is_refused():
    from transformers import DataCollatorWithPadding, TrainingArguments

    from hf_distill.testing import classification_dataset, tiny_tokenizer

    trainer = DistillationTrainer(
        tiny_model("bert_classifier"),
        TrainingArguments("unused", use_cpu=True, report_to="none", max_steps=1, save_strategy="no"),
        teacher=tiny_model("bert_classifier", seed=1),
        losses=["dkd"],
        plugins=["classification"],
        train_dataset=classification_dataset(2).remove_columns("labels"),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    with pytest.raises(ValueError, match="'dkd' reads labels, but the batch has none"):
        trainer.train()
