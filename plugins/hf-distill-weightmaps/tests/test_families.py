"""Descriptions of families: what they name, and that a new one can be added from outside."""

from __future__ import annotations

import pytest
import torch
from hf_distill_weightmaps.families import FAMILIES, Axis, Family, Sizes, TensorAxes, family_of

from hf_distill import Plugins, build_student
from hf_distill.testing import tiny_model

from .conftest import logits


def test_a_misspelt_axis_is_refused():
    assert Axis.parse("in hidden") == Axis("hidden", "in")
    assert Axis.parse("3 heads") == Axis("heads", "out", 3)
    with pytest.raises(ValueError, match="names the axis 'hiden'; expected"):
        Axis.parse("hiden")


def test_a_tensor_without_a_rule_for_each_axis_is_refused():
    family = Family(blocks="layers", rules={})
    with pytest.raises(ValueError, match=r"No rule says what the axes of the tensor 'model\.embed_tokens\.weight' are"):
        TensorAxes.of(tiny_model("llama"), family)
    short = Family(blocks="layers", rules={**FAMILIES["llama"].rules, "lm_head.weight": "vocabulary"})
    with pytest.raises(ValueError, match=r"rule for 'lm_head\.weight' names 1 axes; it has 2"):
        TensorAxes.of(tiny_model("llama"), short)


def test_the_axes_of_all_tensors_have_the_sizes_of_their_kind(model):
    """Whatever a rule says of an axis, its length must be that of the units that lie along it."""
    family = family_of(model.config)
    sizes = Sizes.of(model.config, family)
    lengths = {
        "hidden": sizes.hidden,
        "heads": sizes.heads * sizes.head_width,
        "key_value_heads": sizes.key_value_heads * sizes.head_width,
        "intermediate": sizes.intermediate,
        "vocabulary": getattr(model.config, "vocab_size", 0),
    }
    axes = TensorAxes.of(model, family).axes
    for name, tensor in model.state_dict().items():
        for size, axis in zip(tensor.shape, axes[name], strict=True):
            assert axis.kind == "-" or size == axis.parts * lengths[axis.kind], name


def test_only_a_head_that_shares_the_embeddings_counts_as_tied():
    for tied in (False, True):
        axes = TensorAxes.of(tiny_model("llama", tie_word_embeddings=tied), FAMILIES["llama"])
        assert axes.is_tied == tied
        assert axes.axes["model.norm.weight"] == (Axis("hidden", "in" if tied else "out"),)
    # Without a head there is nothing whose columns would have to be split.
    assert not TensorAxes.of(tiny_model("bert_classifier"), FAMILIES["bert"]).is_tied


def test_a_family_that_a_user_describes_can_be_grown(monkeypatch):
    teacher = tiny_model("cohere")
    with pytest.raises(ValueError, match="'cohere' is not described"):
        build_student(teacher, "grow", plugins=Plugins(["weightmaps"]), hidden_size=64)
    monkeypatch.setitem(FAMILIES, "cohere", FAMILIES["llama"])
    build = build_student(teacher, "grow", plugins=Plugins(["weightmaps"]), hidden_size=64)
    torch.testing.assert_close(logits(build.model), logits(teacher), rtol=0, atol=1e-5)
