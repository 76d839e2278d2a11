import math

import pytest
import torch

from hf_distill.metrics.perplexity import Perplexity


def test_batches_of_unequal_length_weigh_by_their_tokens():
    torch.manual_seed(0)
    logits, labels = torch.randn(10, 7), torch.randint(7, (10,))
    metric = Perplexity()
    for part in (slice(0, 2), slice(2, 10)):
        total = torch.nn.functional.cross_entropy(logits[part], labels[part], reduction="sum")
        metric.add(predictions=total.item(), references=len(labels[part]))
    result = metric.compute()
    assert result["cross_entropy"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item())
    assert result["perplexity"] == pytest.approx(math.exp(result["cross_entropy"]))


def test_uniform_predictions_have_the_perplexity_of_the_vocabulary():
    result = Perplexity().compute(predictions=[5 * math.log(50)], references=[5])
    assert result["perplexity"] == pytest.approx(50)


def test_no_tokens_is_an_error_and_a_hopeless_model_is_infinite():
    with pytest.raises(ValueError, match="no predicted tokens"):
        Perplexity().compute(predictions=[0.0], references=[0])
    assert Perplexity().compute(predictions=[1000.0], references=[1])["perplexity"] == math.inf
