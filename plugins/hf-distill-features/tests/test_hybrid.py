"""The losses of Hybrid Distillation and the tokens that they leave out, against NumPy."""

import numpy as np
import pytest
import torch
from hf_distill_features.hybrid_features import HybridFeatures, smooth_l1_of_normalized
from hf_distill_features.hybrid_relations import HybridRelations, relation_log_probs
from hf_distill_features.redundancy import token_weights

from hf_distill import Batch, Signal
from hf_distill.testing import tiny_model

MASK = torch.tensor([[True] * 5, [True, True, True, False, False]])


def batch(mask=MASK):
    return Batch(inputs={}, extras={}, labels=None, row_labels=None, row_mask=mask, token_mask=mask)


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.99])
def test_tokens_left_out_are_the_nearest_to_all_others_and_the_rest_weighs_more(ratio):
    hidden = torch.randn(2, 5, 8)
    weights = token_weights(hidden, MASK, ratio)
    for index, length in ((0, 5), (1, 3)):
        x = hidden[index, :length].numpy()
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        redundancy = (x @ x.T).mean(1)
        num_kept = length - int(length * ratio)
        kept = np.argsort(redundancy)[:num_kept]
        expected = np.zeros(5)
        expected[kept] = length / num_kept
        np.testing.assert_allclose(weights[index].numpy(), expected, rtol=1e-6)


def test_copies_go_first_and_an_empty_sequence_has_no_weights():
    hidden = torch.eye(5)[None].repeat(2, 1, 1)
    hidden[0, 2] = hidden[0, 1] = hidden[0, 4]
    weights = token_weights(hidden, torch.tensor([[True] * 5, [False] * 5]), 0.4)
    assert (weights[0] == 0).nonzero().flatten().tolist() == [2, 4]
    assert not weights[1].any()


def test_relations_are_attention_between_the_tokens_that_are_kept():
    query, key = torch.randn(1, 2, 5, 6).double(), torch.randn(1, 1, 5, 6).double()
    kept = torch.tensor([[True, False, True, True, False]])
    found = relation_log_probs(query, key, kept, 2).exp()
    for head in range(2):
        products = query[0, head].numpy() @ key[0, 0].numpy().T / np.sqrt(6)
        expected = softmax(np.where(kept.numpy(), products, -np.inf))
        np.testing.assert_allclose(found[0, head].numpy(), expected, atol=1e-12)


def test_relation_loss_is_the_mean_kl_over_kept_tokens_times_the_tokens():
    loss = HybridRelations(masking=0.4, relations=["query_key", "value_value"], num_relation_heads=1)
    loss.setup(tiny_model("bert_mlm"), tiny_model("bert_mlm", hidden_size=48, seed=1), None)
    ours, theirs = (
        {
            name: torch.randn(2, 5, width) if name.startswith("hidden") else torch.randn(2, 4, 5, width // 4)
            for name in names
        }
        for names, width in ((loss.student_taps, 32), (loss.teacher_taps, 48))
    )
    weights = token_weights(ours["hidden.2"], MASK, 0.4).numpy()
    expected = 0.0
    for example in range(2):
        kept = weights[example] > 0
        for first, second in (("query", "key"), ("value", "value")):
            maps = []
            for features in (ours, theirs):
                a, b = (
                    features[f"{kind}.1"][example].transpose(0, 1).flatten(1).numpy()[kept] for kind in (first, second)
                )
                maps.append(softmax(a @ b.T / np.sqrt(a.shape[1])))
            q, p = maps
            expected += (p * np.log(p / q)).sum(-1).mean() * MASK[example].sum().item() / 2
    found = loss(Signal(features=ours), Signal(features=theirs), batch())
    assert found.item() == pytest.approx(expected, rel=1e-4)
    assert loss.count(batch()) == 8


def test_feature_loss_is_smooth_l1_of_what_numpy_normalises():
    student, teacher = torch.randn(4, 6).double() * 3, torch.randn(4, 6).double()
    gaps = []
    for x in (student.numpy(), teacher.numpy()):
        gaps.append((x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5))
    gap = np.abs(gaps[0] - gaps[1])
    expected = np.where(gap < 2, gap**2 / 4, gap - 1).mean(1)
    np.testing.assert_allclose(smooth_l1_of_normalized(student, teacher, 2.0).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("family", ["bert_mlm", "vit"])
def test_both_losses_leave_out_the_same_tokens_of_the_student(family):
    student, teachers = tiny_model(family), [tiny_model(family, seed=seed, hidden_size=16 * seed) for seed in (2, 3)]
    relations, features = HybridRelations(masking=0.5, num_relation_heads=2), HybridFeatures(masking=0.5)
    mask = MASK if family == "bert_mlm" else torch.ones(2, dtype=torch.bool)
    hidden = torch.randn(2, 5, 32)
    seen = []
    for loss, teacher in zip((relations, features), teachers, strict=True):
        loss.setup(student, teacher, None)
        seen.append(loss.weights(0, hidden, mask))
    torch.testing.assert_close(*seen, rtol=0, atol=0)
    assert ((seen[0] == 0) & (MASK if family == "bert_mlm" else True)).sum() == (3 if family == "bert_mlm" else 4)


def test_the_share_that_is_left_out_grows_with_depth():
    loss = HybridFeatures(masking=0.5, layers=[[0, 0], [1, 1], [3, 3]])
    model = tiny_model("bert_mlm", num_hidden_layers=4)
    loss.setup(model, model, None)
    mask = torch.ones(1, 16, dtype=torch.bool)
    left_out = [(loss.weights(pair, torch.randn(1, 16, 32), mask) == 0).sum().item() for pair in range(3)]
    assert left_out == [2, 4, 8]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HybridFeatures(masking=1.0), "masking is 1.0"),
        (lambda: HybridFeatures(beta=0), "beta is 0"),
        (lambda: HybridRelations(relations=["query"]), "relations is"),
        (lambda: HybridRelations(relations=[]), "relations is"),
    ],
)
def test_options_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_number_of_relation_heads_that_does_not_divide_the_width_is_refused():
    with pytest.raises(ValueError, match="width 6 into 4 relation heads"):
        relation_log_probs(torch.randn(1, 1, 5, 6), torch.randn(1, 1, 5, 6), MASK[:1], 4)
