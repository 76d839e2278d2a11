"""`layer_stride` and `miniature`: which blocks, and which of the published shapes."""

from __future__ import annotations

import pytest
import torch
from hf_distill_weightmaps.miniatures import LAYERS, SHAPES, WIDTHS
from transformers import BertConfig, BertModel

from hf_distill import Plugins, build_student
from hf_distill.testing import tiny_inputs, tiny_model

PLUGINS = Plugins(["weightmaps"])


@pytest.mark.parametrize(("stride", "kept"), [(1, [0, 1, 2, 3, 4]), (2, [1, 3]), (3, [2]), (5, [4])])
@pytest.mark.parametrize("family", ["llama", "bert_mlm", "mixtral"])
def test_every_rth_block_is_kept(family, stride, kept):
    teacher = tiny_model(family, num_hidden_layers=5)
    build = build_student(teacher, "layer_stride", plugins=PLUGINS, stride=stride)
    assert build.layer_map == kept
    assert {source.operator for source in build.mapping.values()} == {"copy"}
    if stride == 1:
        inputs = tiny_inputs(teacher)
        assert torch.equal(build.model(**inputs).logits, teacher(**inputs).logits)


def test_a_stride_beyond_the_depth_is_refused():
    with pytest.raises(ValueError, match="stride is 3; the teacher has 2 blocks, so 1 to 2 are possible"):
        build_student(tiny_model("llama"), "layer_stride", plugins=PLUGINS, stride=3)


@pytest.fixture(scope="module")
def bert():
    with torch.device("meta"):
        return BertModel(BertConfig())


def count(layers, width):
    """Parameters of a BERT with 30,522 word pieces, added up by hand; the pooler is one of them."""
    embeddings = (30522 + 512 + 2) * width + 2 * width
    block = 4 * (width * width + width) + 2 * (4 * width * width) + 4 * width + width + 2 * 2 * width
    return embeddings + layers * block + width * width + width


@pytest.mark.parametrize("shape", SHAPES)
def test_a_miniature_has_the_number_of_parameters_of_its_shape(shape, bert, monkeypatch):
    monkeypatch.setattr("hf_distill.students.base.new_model", lambda teacher, config, **_: type(teacher)(config))
    with torch.device("meta"):
        model = build_student(bert, "miniature", plugins=PLUGINS, shape=shape).model
    layers, width = SHAPES[shape]
    assert model.num_parameters() == count(layers, width)
    assert model.config.num_attention_heads == width // 64


def test_published_numbers_are_those_of_the_shapes():
    assert len(LAYERS) * len(WIDTHS) == 24
    # Those of the encoders on the hub, google/bert_uncased_L-2_H-128_A-2 and so on, and of bert-base-uncased.
    published = {"tiny": 4_385_920, "mini": 11_170_560, "small": 28_763_648, "medium": 41_373_184, "base": 109_482_240}
    assert {name: count(*SHAPES[name]) for name in published} == published


def test_an_unknown_shape_is_refused_with_a_list_of_the_known_ones(bert):
    with pytest.raises(ValueError, match=r"No shape '3/128'; there are tiny, mini, .*layers of \(2, 4, 6"):
        build_student(bert, "miniature", plugins=PLUGINS, shape="3/128")
