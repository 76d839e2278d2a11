"""The exact properties on a trained model, its tokenizer and real text."""

from __future__ import annotations

import gzip

import pytest
import torch
from hf_distill_weightmaps.tokenizers import closure, trimmed
from hf_distill_weightmaps.vocabulary import new_ids, used_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill import Plugins, build_student

PLUGINS = Plugins(["weightmaps"])


@pytest.fixture(scope="module")
def stories(shared_data):
    """A small trained Llama, its tokenizer and stories."""
    folder = shared_data / "stories260k" / "hf"
    text = gzip.decompress((shared_data / "tinystories_sample" / "tinystories.txt.gz").read_bytes()).decode()
    lines = [line for line in text.splitlines() if line.strip()][:200]
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder), lines


@torch.no_grad()
def test_a_trained_model_is_the_same_function_once_it_is_grown(stories):
    model, tokenizer, lines = stories
    inputs = tokenizer(lines[0], return_tensors="pt")["input_ids"][:, :64]
    for builder, options in (("grow", {"hidden_size": 128}), ("decoalesce", {"layers": 5})):
        build = build_student(model, builder, plugins=PLUGINS, **options)
        torch.testing.assert_close(build.model(inputs).logits, model(inputs).logits, rtol=0, atol=5e-5)
        assert build.model(inputs).logits.std() > 1


@torch.no_grad()
def test_a_trained_model_keeps_its_words_and_logits_once_its_vocabulary_is_trimmed(stories):
    model, tokenizer, lines = stories
    build = build_student(
        model, "trim_vocabulary", plugins=PLUGINS, keep=used_tokens(tokenizer, lines), tokenizer=tokenizer.name_or_path
    )
    kept = build.record["kept"]
    assert len(kept) < len(tokenizer)
    for line in lines[:20]:
        ids = tokenizer(line)["input_ids"]
        own = build.tokenizer(line)["input_ids"]
        assert own == new_ids(kept, ids)
        expected = model(torch.tensor([ids])).logits[..., kept]
        torch.testing.assert_close(build.model(torch.tensor([own])).logits, expected, rtol=0, atol=5e-5)


@pytest.mark.parametrize("name", ["gpt2", "mistral-7b-v0.1"])
def test_a_published_tokenizer_cuts_texts_in_the_same_way_once_it_is_trimmed(name, shared_data, stories):
    tokenizer, lines = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name), stories[2]
    kept = closure(tokenizer, used_tokens(tokenizer, lines))
    assert len(kept) < len(tokenizer) / 8
    small = trimmed(tokenizer, kept)
    for before, after in zip(tokenizer(lines)["input_ids"], small(lines)["input_ids"], strict=True):
        assert after == new_ids(kept, before)
