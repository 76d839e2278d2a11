"""Pooling, and the vectors of texts."""

import pytest
import torch
from hf_distill_ranking.collator import RankingCollator
from hf_distill_ranking.margin_mse import MarginMSE
from hf_distill_ranking.scoring import embed, pool

from hf_distill import Signal

from .rankings import make_rows, make_trainer

STATES = torch.tensor([[[1.0], [2.0], [4.0]], [[8.0], [16.0], [32.0]]])


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[1.5], [24.0]]), ("first", [[1.0], [16.0]]), ("last", [[2.0], [32.0]])]
)
def test_padding_is_not_pooled_on_either_side(pooling, expected):
    mask = torch.tensor([[True, True, False], [False, True, True]])
    assert pool(STATES, mask, pooling).tolist() == expected


def test_half_precision_is_pooled_without_overflow():
    states = torch.full((1, 3, 1), 60000.0, dtype=torch.float16)
    assert pool(states, torch.ones(1, 3, dtype=torch.bool)).tolist() == [[60000.0]]


@pytest.mark.parametrize("normalize", [False, True])
def test_vectors_of_embedded_texts_give_the_scores_that_the_loss_sees(normalize, tmp_path):
    trainer, rows = make_trainer(tmp_path, ["contrastive"]), make_rows(3)
    model, tokenizer = trainer.student, trainer.processing_class
    batch = trainer.batch_reader.read(RankingCollator(tokenizer)(rows))
    loss = MarginMSE(normalize=normalize, scale=2.0)
    with torch.no_grad():
        said = {name: Signal(outputs=model(**part.inputs)) for name, part in batch.parts.items()}
        scores = loss.predictions(Signal(parts=said), batch)
    for row, own in zip(rows, scores, strict=True):
        query, documents = (
            embed(model, tokenizer, texts, normalize=normalize, batch_size=2)
            for texts in ([row["query"]], row["documents"])
        )
        size = len(row["documents"])
        torch.testing.assert_close(own[:size], 2 * documents @ query[0], rtol=1e-4, atol=1e-5)
        assert own[size:].tolist() == [-100.0] * (4 - size)
