"""Span relations against NumPy, their count, and where the spans of a batch are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hf_distill_lm.span_relation import SpanRelation, spans_by_position
from scipy.special import softmax

from hf_distill import Batch, Rows, Signal
from hf_distill.testing import causal_lm_dataset, conformance

LENGTHS = [len(tokens) for tokens in causal_lm_dataset(4)["input_ids"]]
SPANS = [[(place // 3 if place % 4 else -1) for place in range(length)] for length in LENGTHS]


def in_numpy(student, teacher, batch):
    """Pair by pair; the prediction of token i stands at i - 1."""
    q, p = (
        softmax((signal.rows.states @ signal.rows.head.weight.double().T).detach().numpy(), -1)
        for signal in (student, teacher)
    )
    total = 0.0
    for example, spans in enumerate(SPANS):
        for token in range(1, len(spans) - 1):
            if spans[token] == spans[token + 1] != -1:
                ours, theirs = (x[example, token - 1] * x[example, token] for x in (q, p))
                total += ((ours - theirs) ** 2).sum()
    return total


LACKS = {"no_host_sync": "the rows of spans are chosen, and their number must be known"}
test_conformance = conformance(
    "span_relation", plugins=["lm"], reference=in_numpy, lacks=LACKS, columns={"span_ids": SPANS}
)
test_conformance_in_small_chunks = conformance(
    "span_relation",
    plugins=["lm"],
    options={"chunk_size": 2},
    reference=in_numpy,
    lacks=LACKS,
    columns={"span_ids": SPANS},
)


def batch(spans, mask=None):
    spans = torch.tensor(spans)
    mask = torch.ones_like(spans, dtype=torch.bool) if mask is None else torch.tensor(mask, dtype=torch.bool)
    rows = torch.nn.functional.pad(mask, (0, 1))[:, 1:] & mask
    return Batch({}, {"span_ids": spans}, None, None, row_mask=rows, token_mask=mask)


def test_pairs_are_counted_within_spans_and_only_where_both_tokens_are_predicted():
    # Tokens 1-2 and 2-3 of the first example; token 0 is not predicted, 3-4 are of two spans.
    assert SpanRelation().count(batch([[0, 0, 0, 0, 1], [-1, -1, -1, 2, -1]])) == 2
    # Padded from the right: tokens 3 and 4 are not there.
    assert SpanRelation().count(batch([[0, 0, 0, 0, 0]], [[1, 1, 1, 0, 0]])) == 1


def test_what_lies_between_two_spans_does_not_become_a_pair():
    """Rows 0 and 1 are of one span, rows 3 and 4 of another; the rows that are projected stand side by side."""
    data = batch([[9, 0, 0, 7, 1, 1, -1]])
    student, teacher = torch.randn(1, 7, 5).double(), torch.randn(1, 7, 5).double()
    found = SpanRelation()(Signal(rows=Rows(logits=student)), Signal(rows=Rows(logits=teacher)), data)
    q, p = student[0].softmax(-1), teacher[0].softmax(-1)
    expected = sum((q[i] * q[i + 1] - p[i] * p[i + 1]).square().sum() for i in (0, 3))
    torch.testing.assert_close(found, expected)
    assert SpanRelation().count(data) == 2


def test_columns_that_were_not_padded_find_their_tokens_on_either_side():
    column = [[4, 5], [6, 7, 8]]
    right = torch.tensor([[1, 1, 0], [1, 1, 1]], dtype=torch.bool)
    assert spans_by_position(column, right, "span_ids").tolist() == [[4, 5, -1], [6, 7, 8]]
    assert spans_by_position(column, right.flip(1), "span_ids").tolist() == [[-1, 4, 5], [6, 7, 8]]
    equal = torch.tensor([[4, 5], [6, 7]])  # a collator that padded further than it had to
    assert spans_by_position(equal, torch.tensor([[1, 1, 0]] * 2).bool(), "span_ids").tolist() == [
        [4, 5, -1],
        [6, 7, -1],
    ]


def test_data_without_spans_is_an_error_that_says_how_to_make_them():
    data = batch([[0, 0]])
    data.extras = {}
    with pytest.raises(ValueError, match=r"no column 'span_ids'.*tokenize_with_spans"):
        SpanRelation().count(data)


def test_a_chunk_that_holds_no_pair_is_an_error():
    with pytest.raises(ValueError, match="chunk_size is 1"):
        SpanRelation(chunk_size=1)


def test_encoder_decoders_predict_a_token_where_it_stands():
    from hf_distill.testing import tiny_model

    loss = SpanRelation()
    loss.setup(tiny_model("t5"), None, None)
    data = batch([[0, 0, 1, 1]])
    data.row_mask = data.token_mask
    assert loss.count(data) == 2
    assert np.isclose(loss(*(Signal(rows=Rows(logits=torch.zeros(1, 4, 3))) for _ in range(2)), data).item(), 0)
