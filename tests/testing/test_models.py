"""The tiny models that every other test leans on."""

from __future__ import annotations

import pytest
import torch

from hf_distill.testing import tiny_inputs, tiny_model
from hf_distill.testing.models import _FAMILIES


@pytest.mark.parametrize("family", _FAMILIES)
def test_a_family_runs_on_its_own_inputs_and_is_the_same_every_time(family: str) -> None:
    state = torch.get_rng_state()
    model, again, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    inputs = tiny_inputs(model)
    assert torch.equal(torch.get_rng_state(), state), "building drew from the global generator"
    with torch.no_grad():
        first = model(**inputs)[0]  # logits, of a bare encoder hidden states
        assert torch.isfinite(first).all()
        assert torch.equal(first, again(**inputs)[0])
        assert not torch.equal(first, other(**inputs)[0])
        assert torch.equal(first, model.train()(**inputs)[0]), "dropout is on"


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart", "vit"])
def test_common_names_reach_configurations_that_use_other_words(family: str) -> None:
    config = tiny_model(family, hidden_size=16, num_attention_heads=2, num_hidden_layers=3).config
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (16, 2, 3)


def test_an_unknown_family_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'lama'; there are llama, "):
        tiny_model("lama")
