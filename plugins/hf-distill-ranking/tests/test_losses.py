"""The formulas against numbers by hand, and what they must not depend on."""

import pytest
import torch
from hf_distill_ranking.contrastive import Contrastive, contrast
from hf_distill_ranking.listwise_kl import ListwiseKL, listwise_kl
from hf_distill_ranking.margin_mse import MarginMSE, margin_errors

from hf_distill import Batch, Rows, Signal
from hf_distill.testing import tiny_model

STUDENT = torch.tensor([[3.0, 1.0], [0.5, 2.0]])
TEACHER = torch.tensor([[8.0, -2.0], [1.0, 1.5]])
OFFSETS = torch.tensor([[100.0], [-7.0]])


def batch(labels, *, mask=None, **columns):
    labels = torch.tensor(labels)
    there = labels >= 0 if mask is None else torch.tensor(mask)
    rows = torch.ones(len(labels), dtype=torch.bool)
    return Batch({"document_mask": there, **columns}, {}, labels, None, row_mask=rows, token_mask=rows)


def triples(student, teacher):
    """The mean over two triples, the first document of each the relevant one."""
    loss, data = MarginMSE(), batch([[1, 0], [1, 0]])
    return (margin_errors(student, teacher) * loss.weights(data)).sum() / loss.count(data)


def test_margin_mse_is_the_mean_of_squared_differences_of_margins():
    # Margins of 2 and -1.5, the teacher's 10 and -0.5.
    assert triples(STUDENT, TEACHER).item() == (8**2 + 1**2) / 2


def test_a_teachers_origin_for_each_query_does_not_matter():
    torch.testing.assert_close(triples(STUDENT, TEACHER + OFFSETS), triples(STUDENT, TEACHER))
    mask = torch.ones(2, 2, dtype=torch.bool)
    shifted = listwise_kl(STUDENT, TEACHER + OFFSETS, mask)
    torch.testing.assert_close(shifted, listwise_kl(STUDENT, TEACHER, mask), rtol=1e-5, atol=1e-5)


def test_a_teachers_scale_matters():
    assert triples(STUDENT, 10 * TEACHER) != triples(STUDENT, TEACHER)


def test_a_student_that_scores_like_the_teacher_has_no_loss_and_no_gradient():
    student = (TEACHER + OFFSETS).requires_grad_()
    mask = torch.ones(2, 2, dtype=torch.bool)
    for value in (triples(student, TEACHER), listwise_kl(student, TEACHER, mask, temperature=2.0).sum()):
        (gradient,) = torch.autograd.grad(value, student)
        assert value.item() == pytest.approx(0, abs=1e-6)
        torch.testing.assert_close(gradient, torch.zeros(2, 2), atol=1e-6, rtol=0)


def test_pairs_are_those_of_a_more_and_a_less_relevant_document():
    weights = MarginMSE().weights(batch([[2, 0, 1], [0, 1, -100]]))
    assert weights.nonzero().tolist() == [[0, 0, 1], [0, 0, 2], [0, 2, 1], [1, 1, 0]]


def test_lists_of_other_lengths_do_not_change_the_divergence_of_a_query():
    mask = torch.tensor([[True, True, False], [True, True, True]])
    garbage = torch.tensor([[1e4], [0.0]])
    student, teacher = torch.cat([STUDENT, garbage], 1), torch.cat([TEACHER, -garbage], 1)
    alone = listwise_kl(STUDENT, TEACHER, torch.ones(2, 2, dtype=torch.bool))
    assert listwise_kl(student, teacher, mask)[0].item() == pytest.approx(alone[0].item(), rel=1e-6)


def test_contrastive_learning_is_a_cross_entropy():
    scores = torch.tensor([[1.0, 2.0, -1.0, 9.0], [0.5, 0.0, 3.0, 1.0]])
    mask = torch.tensor([[True, True, True, False], [True] * 4])
    relevance = torch.tensor([[0, 1, 0, -100], [0, 0, 1, 2]])
    found = contrast(scores, relevance, mask)
    first = torch.nn.functional.cross_entropy(scores[:1, :3], torch.tensor([1]))
    target = torch.tensor([[0, 0, 1 / 3, 2 / 3]])
    torch.testing.assert_close(found, torch.stack([first, torch.nn.functional.cross_entropy(scores[1:], target)]))


def test_queries_without_a_relevant_document_do_not_count():
    assert Contrastive().weights(batch([[0, 0], [1, 0]])).tolist() == [False, True]


def test_missing_labels_are_refused_by_losses_that_read_them_and_not_by_the_listwise_one():
    data = batch([[0, 0]])
    data.labels = None
    for loss in (MarginMSE(), Contrastive()):
        with pytest.raises(ValueError, match="positive and negative"):
            loss.count(data)
    assert ListwiseKL().count(data) == 1


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MarginMSE(pooling="cls"), "pooling is 'cls'; expected one of mean, first, last"),
        (lambda: MarginMSE(scale=0), "scale is 0; expected a positive number"),
        (lambda: ListwiseKL(temperature=0), "temperature is 0; expected a positive number"),
    ],
)
def test_options_out_of_range_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_models_of_the_wrong_kind_are_refused():
    encoder, cross = tiny_model("bert"), tiny_model("bert_classifier", num_labels=1)
    MarginMSE().setup(encoder, cross, None)
    with pytest.raises(ValueError, match=r"BertForMaskedLM, whose head .* AutoModel"):
        MarginMSE().setup(tiny_model("bert_mlm"), cross, None)
    with pytest.raises(ValueError, match=r"BertForSequenceClassification of 3 classes; .* num_labels=1"):
        MarginMSE().setup(encoder, tiny_model("bert_classifier"), None)


def test_a_column_of_scores_that_the_batch_lacks_is_refused():
    with pytest.raises(ValueError, match=r"the column 'scores', but the batch has document_mask, teacher_scores"):
        MarginMSE(column="scores").teacher_scores(Signal(), batch([[1, 0]], teacher_scores=TEACHER))


def test_scores_of_pairs_stay_with_their_query():
    data = batch([[1, 0, -100], [0, 1, 0]])
    pairs = Signal(parts={"pairs": Signal(rows=Rows(logits=torch.arange(5.0)[:, None]))})
    scores = MarginMSE().teacher_scores(pairs, data)
    assert scores[data.inputs["document_mask"]].tolist() == [0, 1, 2, 3, 4]
    assert scores[0, :2].tolist() == [0, 1]
