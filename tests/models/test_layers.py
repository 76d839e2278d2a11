"""Finding blocks without a table of families, and the pairs of blocks that learn from each other."""

import pytest
import torch
import transformers

from hf_distill.models.layers import blocks, hidden_width, layer_map, match_layers, num_blocks, unwrap
from hf_distill.testing import tiny_model


@pytest.mark.parametrize(
    ("family", "stack", "block"),
    [
        ("llama", "", "LlamaDecoderLayer"),
        ("llama_classifier", "", "LlamaDecoderLayer"),
        ("gpt2", "", "GPT2Block"),
        ("bert_mlm", "", "BertLayer"),
        ("vit", "", "ViTLayer"),
        ("mixtral", "", "MixtralDecoderLayer"),
        ("t5", "encoder", "T5Block"),
        ("t5", "decoder", "T5Block"),
        ("bart", "encoder", "BartEncoderLayer"),
        ("bart", "decoder", "BartDecoderLayer"),
    ],
)
def test_blocks_are_found_without_knowing_the_family(family, stack, block):
    model = tiny_model(family)
    assert [type(module).__name__ for module in blocks(model, stack)] == [block, block]
    assert hidden_width(model, stack) == 32


def test_stacks_of_different_depth_are_told_apart():
    model = tiny_model("bart", encoder_layers=3, decoder_layers=1)
    assert (num_blocks(model, "encoder"), num_blocks(model, "decoder")) == (3, 1)
    model = tiny_model("t5", num_layers=1, num_decoder_layers=3)
    assert (num_blocks(model, "encoder"), num_blocks(model, "decoder")) == (1, 3)


def test_vision_language_model_has_the_blocks_of_its_text_part():
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2, image_size=8, patch_size=4
    )
    text = tiny_model("llama").config
    model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(vision_config=vision, text_config=text))
    assert [type(module).__name__ for module in blocks(model)] == ["LlamaDecoderLayer"] * 2
    assert hidden_width(model) == 32


class Engine(torch.nn.Module):
    """Passes attributes on to what it wraps, as DeepSpeed's engine does."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # import of dynamo
def test_wrappers_are_looked_through_in_any_order_even_when_they_pass_attributes_on():
    model = tiny_model("llama")
    wrappers = [Engine(model), torch.nn.DataParallel(model), torch.compile(model)]
    for wrapped in (model, *wrappers, torch.compile(Engine(model)), torch.nn.DataParallel(torch.compile(model))):
        assert unwrap(wrapped) is model


def test_list_attached_to_the_model_is_not_taken_for_its_blocks():
    model = tiny_model("bert_mlm")
    model.attached = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])
    assert type(blocks(model)[0]).__name__ == "BertLayer"


def test_as_many_convolutions_as_blocks_are_not_taken_for_them():
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    convolutions = {"conv_dim": [8, 8], "conv_kernel": [10, 3], "conv_stride": [5, 2], "num_feat_extract_layers": 2}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    model = transformers.HubertModel(transformers.HubertConfig(**sizes, **convolutions, **positions))
    assert blocks(model) is model.encoder.layers


def test_model_without_a_list_of_blocks_is_an_error_that_shows_what_it_has():
    config = transformers.AlbertConfig(vocab_size=64, hidden_size=32, num_attention_heads=4, num_hidden_layers=3)
    with pytest.raises(ValueError, match=r"AlbertModel: its configuration speaks of \[3\] layers.*lengths \[1\]"):
        blocks(transformers.AlbertModel(config))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("last_of_block", [2, 5, 8, 11]),  # TinyBERT's g(m) = 3 m, counted from one
        ("every_k", [0, 3, 6, 9]),
        ("uniform", [0, 4, 7, 11]),
        ("top", [8, 9, 10, 11]),
        ([[0, 0], [3, -1]], None),
    ],
)
def test_each_kind_of_layer_map_pairs_four_blocks_with_the_expected_of_twelve(kind, expected):
    pairs = layer_map(4, 12, kind)
    assert pairs == ([(0, 0), (3, 11)] if expected is None else list(enumerate(expected)))


@pytest.mark.parametrize("kind", ["last_of_block", "every_k", "uniform", "top"])
def test_layer_maps_are_increasing_and_in_range_for_every_pair_of_depths(kind):
    for num_teacher in range(1, 14):
        for num_student in range(1, num_teacher + 1):
            teacher_blocks = [teacher for _, teacher in layer_map(num_student, num_teacher, kind)]
            assert len(set(teacher_blocks)) == num_student
            assert teacher_blocks == sorted(teacher_blocks)
            assert 0 <= teacher_blocks[0] <= teacher_blocks[-1] < num_teacher
            if kind in ("last_of_block", "top"):
                assert teacher_blocks[-1] == num_teacher - 1
        assert layer_map(num_teacher, num_teacher, kind) == [(i, i) for i in range(num_teacher)]


def test_impossible_layer_maps_say_what_is_possible():
    with pytest.raises(ValueError, match="expected one of last_of_block, every_k, uniform, top or a list"):
        layer_map(2, 4, "skip")
    with pytest.raises(ValueError, match="student has 4 blocks and the teacher 2"):
        layer_map(4, 2)
    with pytest.raises(ValueError, match=r"teacher block 4; there are 4 \(0 to 3\)"):
        layer_map(2, 4, [[0, 4]])
    with pytest.raises(ValueError, match="pairs is empty"):
        layer_map(2, 4, [])
    with pytest.raises(ValueError, match="student block 2"):
        layer_map(2, 4, [[2, 0]])


def test_map_that_the_builder_left_is_used_where_it_fits():
    student, teacher = tiny_model("llama"), tiny_model("llama", num_hidden_layers=4)
    assert match_layers(student, teacher) == [(0, 1), (1, 3)]
    student.config.hf_distill = {"layer_map": [0, 2]}
    assert match_layers(student, teacher) == [(0, 0), (1, 2)]
    assert match_layers(student, teacher, "top") == [(0, 2), (1, 3)]
    assert match_layers(student, tiny_model("llama")) == [(0, 0), (1, 1)]  # block 2 does not exist there
    student.config.hf_distill = {"layer_map": [None, 2]}  # the first block is new
    assert match_layers(student, teacher) == [(1, 2)]
    student.config.hf_distill = {"layer_map": None}
    assert match_layers(student, teacher) == [(0, 1), (1, 3)]


def test_map_of_an_encoder_decoder_is_read_by_stack():
    student, teacher = tiny_model("t5"), tiny_model("t5", num_layers=4, num_decoder_layers=4)
    student.config.hf_distill = {"layer_map": {"encoder": [0, 1], "decoder": [2, 3]}}
    assert match_layers(student, teacher, stack="encoder") == [(0, 0), (1, 1)]
    assert match_layers(student, teacher, stack="decoder") == [(0, 2), (1, 3)]
