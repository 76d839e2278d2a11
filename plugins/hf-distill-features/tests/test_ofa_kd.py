"""OFA-KD against the official loss, and where its branches sit."""

import numpy as np
import pytest
import torch
from hf_distill_features.ofa_kd import OFAKD, exit_blocks, ofa_targets, soft_cross_entropy

from hf_distill import Batch, Rows, Signal
from hf_distill.testing import tiny_model


# ofa_loss of distillers/ofa.py in Hao840/OFAKD, which is the mean.
@pytest.mark.parametrize(
    ("exponent", "expected"), [(1.0, 1.3826903895641398), (1.5, 1.4206097992613433), (0.7, 1.5043279810214971)]
)
def test_value_is_that_of_the_official_code(exponent, expected):
    generator = np.random.default_rng(2)
    student, teacher = (torch.tensor(generator.standard_normal((4, 3))) for _ in range(2))
    target = ofa_targets(teacher, torch.tensor([2, 0, 1, 1]), exponent)
    assert soft_cross_entropy(student, target).mean().item() == pytest.approx(expected, rel=1e-12)


def test_exponent_one_is_the_soft_cross_entropy_and_a_larger_one_boosts_the_target_alone():
    teacher, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    p = teacher.softmax(-1)
    torch.testing.assert_close(ofa_targets(teacher, labels, 1.0), p)
    boosted = ofa_targets(teacher, labels, 1.5)
    is_target = torch.nn.functional.one_hot(labels, 4).bool()
    assert (boosted[is_target] > p[is_target]).all()
    assert (boosted[~is_target] < p[~is_target]).all()


def make(family="bert_classifier", **options):
    loss = OFAKD(**options)
    loss.setup(tiny_model(family, num_hidden_layers=4), tiny_model("vit"), None)
    return loss


def batch(labels):
    labels = torch.tensor(labels)
    mask = labels != -100 if labels.dim() == 1 else torch.ones(len(labels), dtype=torch.bool)
    return Batch(inputs={}, extras={}, labels=labels, row_labels=labels, row_mask=mask, token_mask=mask)


def signals(loss, num_examples=3):
    features = {name: torch.randn(num_examples, 5, 32) for name in loss.student_taps}
    student = Signal(rows=Rows(logits=torch.randn(num_examples, 3)), features=features)
    return student, Signal(rows=Rows(logits=torch.randn(num_examples, 3)))


def test_parts_are_the_head_and_the_sum_of_the_branches_over_labelled_examples():
    loss = make(exponent=[1.0, 1.1, 1.2, 1.3, 1.4], branch_weight=2.0)
    student, teacher = signals(loss)
    parts = loss(student, teacher, batch([1, -100, 2]))
    expected = dict.fromkeys(parts, 0.0)
    outputs = list(zip(loss.exponents, [*loss.student_taps, None], [*loss.branches, None], strict=True))
    for example, label in ((0, 1), (2, 2)):
        p = teacher.rows.logits[example].softmax(-1)
        target = torch.nn.functional.one_hot(torch.tensor(label), 3)
        for exponent, name, branch in outputs:
            logits = student.rows.logits[example] if branch is None else branch(student.features[name][example].mean(0))
            value = -(((p + target) ** exponent - target) * logits.log_softmax(-1)).sum()
            expected["final" if branch is None else "branches"] += value * (1 if branch is None else 2)
    for name, value in parts.items():
        torch.testing.assert_close(value, expected[name])


def test_soft_labels_count_as_their_largest_class():
    loss = make(exponent=1.5)
    both = signals(loss)
    soft = batch([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7], [0.1, 0.8, 0.1]])
    torch.testing.assert_close(loss(*both, soft), loss(*both, batch([0, 2, 1])))


def test_exits_are_spread_over_the_depth_and_the_last_is_the_last_block():
    assert exit_blocks(12, 4) == [2, 5, 8, 11]
    assert exit_blocks(6, 4) == [1, 2, 4, 5]
    assert exit_blocks(2, 4) == [0, 1]
    assert make(exits=[0, -1]).student_taps == ("hidden.1", "hidden.4")


def test_a_convolution_branches_from_the_modules_that_are_named():
    loss = make(taps=["module:a", "module:b"], widths=[7, 9])
    assert [branch[1].in_features for branch in loss.branches] == [7, 9]
    features = {"module:a": torch.randn(2, 7, 4, 4), "module:b": torch.randn(2, 9, 2, 2)}
    student = Signal(rows=Rows(logits=torch.randn(2, 3)), features=features)
    assert loss(student, Signal(rows=Rows(logits=torch.randn(2, 3))), batch([0, 1]))["branches"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"taps": ["module:a"]}, "a width for each tap"),
        ({"taps": ["module:a"], "widths": [7], "exits": 2}, "give one of them"),
        ({"exits": 0}, "exits is 0"),
        ({"exits": [4]}, "the blocks 0 to 3"),
        ({"exits": []}, "the blocks 0 to 3"),
        ({"exponent": [1.0, 2.0]}, "exponent has 2 entries; expected one, or 5"),
        ({"pooling": "flatten"}, "pooling is 'flatten'"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_models_that_do_not_fit_and_batches_without_labels_or_with_logits_of_tokens_are_refused():
    with pytest.raises(ValueError, match="the student is a LlamaForCausalLM"):
        OFAKD().setup(tiny_model("llama"), tiny_model("vit"), None)
    with pytest.raises(ValueError, match="3 classes and the teacher 5"):
        OFAKD().setup(tiny_model("vit"), tiny_model("vit", num_labels=5), None)
    loss = make()
    student, teacher = signals(loss)
    unlabelled = Batch(
        inputs={},
        extras={},
        labels=None,
        row_labels=None,
        row_mask=torch.ones(3).bool(),
        token_mask=torch.ones(3).bool(),
    )
    with pytest.raises(ValueError, match="no labels"):
        loss(student, teacher, unlabelled)
    with pytest.raises(ValueError, match=r"a model gave logits of shape \(3, 5, 3\)"):
        loss(Signal(rows=Rows(logits=torch.randn(3, 5, 3))), teacher, batch([0, 1, 2]))
