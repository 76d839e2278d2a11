"""DeiT-LT and MDCS against the authors' code, their clocks, their counts, and the student with experts."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from hf_distill_classification.class_counts import class_balanced_weights, count_classes
from hf_distill_classification.deit_lt import DeiTLT, normalised_weights
from hf_distill_classification.experts import CosineLinear
from hf_distill_classification.mdcs import MDCS, mdcs
from hf_distill_classification.views import TwoViews, WordDropout
from torch import nn
from transformers import DataCollatorWithPadding

from hf_distill import Batch, Plugins, Rows, Signal, StepInfo, load_student, transform
from hf_distill.testing import classification_dataset, tiny_inputs, tiny_model, tiny_tokenizer

COUNTS = [100, 40, 15, 6, 2]
LABELS = torch.tensor([2, 0, 4, 1])
PLUGINS = Plugins(["classification"])


def batch(labels):
    present = torch.ones(len(labels), dtype=torch.bool)
    return Batch({}, {}, labels=labels, row_labels=labels, row_mask=present, token_mask=present)


# main.py of val-iisc/DeiT-LT.
def test_class_balanced_weights_are_those_of_the_authors_code():
    expected = [0.06538057327270508, 0.16296236217021942, 0.4340236485004425, 1.0845710039138794, 3.2530624866485596]
    found = class_balanced_weights(torch.tensor(COUNTS), beta=0.9999)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)
    mean = (normalised_weights(torch.tensor(COUNTS), beta=0.9999) * torch.tensor(COUNTS)).sum() / sum(COUNTS)
    assert mean.item() == pytest.approx(1)


def test_weights_are_equal_without_counts_and_finite_for_a_class_without_examples():
    assert normalised_weights(torch.zeros(3).long(), beta=0.9999).tolist() == [1, 1, 1]
    assert normalised_weights(torch.tensor([5, 0]), beta=0.9999).isfinite().all()
    assert class_balanced_weights(torch.tensor(COUNTS), beta=0.0).tolist() == [1] * 5


def deit_lt(**options):
    loss = DeiTLT(class_counts=COUNTS, **options)
    loss.setup(tiny_model("deit", num_labels=5), None, None)
    return loss


def said(loss, waves):
    """What both models say of four images."""
    features = dict(zip(loss.student_taps, (waves(0.0), waves(1.0)), strict=True))
    return Signal(features=features), Signal(rows=Rows(logits=waves(2.0)))


# DistillationLoss of losses.py in val-iisc/DeiT-LT, "hard", without and with weights.
def test_the_loss_of_two_heads_is_that_of_the_authors_code_up_to_the_normalisation(waves):
    loss = deit_lt()
    parts = loss(*said(loss, waves), batch(LABELS))
    assert parts["label"].item() / 4 == pytest.approx(0.9743065698617683 / 1, rel=1e-9)
    assert parts["distillation"].item() / 4 == pytest.approx(0.5960140603950148, rel=1e-9)
    loss.on_step_end(StepInfo(step=11, max_steps=12, losses={}))
    weighted = loss(*said(loss, waves), batch(LABELS))["distillation"].item()
    weights = normalised_weights(loss.counts, beta=0.9999)[waves(2.0).argmax(-1)]
    # The authors divide by the weights of the batch's own targets.
    assert weighted / weights.sum().item() == pytest.approx(0.6060424708318073, rel=1e-6)


def test_soft_labels_give_the_cross_entropy_with_them(waves):
    loss = deit_lt(alpha=0.0)
    mixed = 0.7 * nn.functional.one_hot(LABELS, 5) + 0.3 * nn.functional.one_hot(LABELS.flip(0), 5)
    found = loss(*said(loss, waves), batch(mixed.double()))["label"]
    expected = -(mixed * waves(0.0).log_softmax(-1)).sum()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("reweight_from", "expected"), [(0.5, [0, 0, 1, 1]), (0, [1, 1, 1, 1]), (1, [0, 0, 0, 0]), (11 / 12, [0, 0, 0, 1])]
)
def test_reweighting_begins_at_its_share_of_the_run_and_survives_a_resume(reweight_from, expected):
    loss = deit_lt(reweight_from=reweight_from)
    found = [loss.reweighting.item()]
    for step in (1, 2, 4):
        loss.on_step_end(StepInfo(step=step, max_steps=4, losses={}))
        found.append(loss.reweighting.item())
    assert found == expected
    resumed = deit_lt(reweight_from=reweight_from)
    resumed.load_state_dict(loss.state_dict())
    assert resumed.reweighting.item() == expected[-1]


def test_classes_are_counted_from_a_column_of_labels_and_data_that_do_not_fit_are_refused():
    data = Dataset.from_dict({"labels": [0, 2, 2, 0, 0]})
    assert count_classes(data, 4, "x").tolist() == [3, 0, 2, 0]
    assert count_classes(data.rename_column("labels", "label"), 3, "x").tolist() == [3, 0, 2]
    for wrong in (data.to_iterable_dataset(), Dataset.from_dict({"labels": ["a", "b"]}), Dataset.from_dict({"y": [0]})):
        with pytest.raises(ValueError, match=r"cannot read a column .* class_counts=\[...\]"):
            count_classes(wrong, 4, "x")
    with pytest.raises(ValueError, match="the training data has 3 classes, the student 2"):
        count_classes(data, 2, "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeiTLT(alpha=2.0), "alpha is 2.0"),
        (lambda: DeiTLT(heads=["one"]), "expected two paths"),
        (lambda: DeiTLT().setup(tiny_model("vit"), None, None), "ViTForImageClassification has no 'cls_classifier'"),
        (lambda: DeiTLT(class_counts=[1, 2]).setup(tiny_model("deit"), None, None), "2 entries from 1 to 2"),
        (lambda: MDCS(strengths=[]), "strengths are"),
        (lambda: MDCS(warmup=2), "warmup 2"),
        (lambda: MDCS().setup(tiny_model("vit"), None, None), "strengths for 3 experts, but the student has 0"),
        (lambda: transform(tiny_model("vit"), "experts", plugins=PLUGINS, num_experts=0), "num_experts is 0"),
        (lambda: transform(tiny_model("llama"), "experts", plugins=PLUGINS), "experts is for classifiers"),
        (lambda: WordDropout(1.5, tiny_tokenizer()), "rate is 1.5"),
    ],
)  # fmt: skip
def test_options_and_models_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# MDCSLoss of model/loss.py in fistyee/MDCS, at epochs 0, 10 and 50, where one expert is right about one example.
def test_diversity_and_consistency_are_those_of_the_authors_code(waves):
    prior = torch.tensor(COUNTS).log()
    logits = torch.stack([waves(phase, rows=8) for phase in (0.3, 1.1, 2.2)])
    adjusted = logits + torch.tensor([-0.5, 1.0, 2.5])[:, None, None] * prior
    diversity, consistency = mdcs(adjusted[:, :4], adjusted[:, 4:], LABELS)
    right = (adjusted[:, :4].argmax(-1) == LABELS).sum()
    assert right == 1
    for share, expected in ((0, 14.240191459655762), (0.5, 15.276497840881348), (1, 16.31280517578125)):
        found = diversity.mean() + 0.6 * share * consistency.sum() / right
        assert found.item() == pytest.approx(expected, rel=1e-6)


def test_the_warm_up_rises_over_its_share_of_the_run_and_then_stays_at_one():
    loss = MDCS(strengths=[1.0], warmup=0.5, class_counts=[1, 1, 1])
    student = tiny_model("vit")
    transform(student, "experts", plugins=PLUGINS, num_experts=1)
    loss.setup(student, None, None)
    found = [loss.ramp.view(torch.float32).item()]
    for step in (1, 2, 3, 4, 8):
        loss.on_step_end(StepInfo(step=step, max_steps=8, losses={}))
        found.append(loss.ramp.view(torch.float32).item())
    assert found == [0, 0.25, 0.5, 0.75, 1, 1]


def test_experts_give_the_mean_of_their_logits_and_the_same_after_saving(tmp_path):
    student = tiny_model("bert_classifier")
    transform(student, "experts", plugins=PLUGINS, num_experts=2, scale=10.0)
    inputs = tiny_inputs(student)
    features = {}
    for index, expert in enumerate(student.classifier.experts):
        expert.register_forward_hook(lambda module, args, output, index=index: features.update({index: output}))
    logits = student(**inputs).logits
    torch.testing.assert_close(logits, (features[0] + features[1]) / 2)
    assert logits.abs().max() <= 10
    student.save_pretrained(tmp_path)
    torch.testing.assert_close(load_student(tmp_path, plugins=PLUGINS)(**inputs).logits, logits)


def test_a_cosine_layer_ignores_the_lengths_of_its_weights_and_features():
    layer = CosineLinear(4, 3, scale=2.0)
    features = torch.randn(5, 4)
    before = layer(features)
    with torch.no_grad():
        layer.weight *= torch.tensor([[100.0], [1.0], [0.01]])
    torch.testing.assert_close(layer(7 * features), before)
    x, w = features.numpy(), layer.weight.detach().numpy()
    cosines = x @ w.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(w, axis=1)
    np.testing.assert_allclose(before.detach().numpy(), 2 * cosines, rtol=1e-5)


def test_both_views_are_of_the_same_examples_and_keep_their_labels():
    tokenizer = tiny_tokenizer()
    collator = TwoViews(DataCollatorWithPadding(tokenizer), strong=WordDropout(0.4, tokenizer))
    features = list(classification_dataset(6))
    made = collator(features)
    assert made.keys() == {"weak", "strong", "labels"}
    assert made["labels"].tolist() == [feature["labels"] for feature in features]
    weak, strong = made["weak"]["input_ids"], made["strong"]["input_ids"]
    masked = strong == tokenizer.mask_token_id
    assert 0.1 < masked.float().mean() < 0.6
    assert (strong == weak)[~masked].all()
    assert not (masked & (weak == tokenizer.pad_token_id)).any()
    with pytest.raises(ValueError, match="Two views need labels"):
        collator([{"input_ids": [5, 6]}])
