"""`trim_vocabulary`: the teacher's logits on the kept tokens, and no token in use lost in silence."""

from __future__ import annotations

import pytest
import torch
from hf_distill_weightmaps.vocabulary import new_ids, used_tokens
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_distill import Plugins, build_student
from hf_distill.testing import tiny_model, tiny_tokenizer

from .conftest import make

PLUGINS = Plugins(["weightmaps"])


@pytest.fixture
def tokenizer(tmp_path):
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def trim(teacher, tokenizer, **options):
    return build_student(teacher, "trim_vocabulary", plugins=PLUGINS, tokenizer=tokenizer, **options)


MODELS = ["llama", "llama, tied", "qwen2", "gpt2", "bert", "roberta", "camembert"]


@pytest.mark.parametrize("name", MODELS)
def test_kept_tokens_get_the_same_logits(name, tokenizer, tmp_path):
    teacher = make(name)
    build = trim(teacher, tokenizer, keep=[20, 21, 30, 40, 50])
    kept = build.record["kept"]
    assert {20, 21, 30, 40, 50} <= set(kept)
    assert len(kept) < 20
    assert build.model.config.vocab_size == len(kept) == len(build.tokenizer)
    generator = torch.Generator().manual_seed(0)
    old = torch.tensor(kept)[torch.randint(2, len(kept), (3, 7), generator=generator)]
    new = torch.tensor([new_ids(kept, row) for row in old.tolist()])
    mask = torch.ones_like(old)
    with torch.no_grad():
        expected = teacher(input_ids=old, attention_mask=mask).logits[..., kept]
        found = build.model(input_ids=new, attention_mask=mask).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert build.mapping.keys() == build.model.state_dict().keys()
    build.model.save_pretrained(tmp_path / "student")
    loaded = type(teacher).from_pretrained(tmp_path / "student")
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=new, attention_mask=mask).logits, found)


@pytest.mark.parametrize("name", ["bert, classes", "roberta, classes", "llama, classes", "xlm-roberta"])
def test_logits_of_classes_do_not_change_with_the_vocabulary(name, tokenizer):
    teacher = make(name)
    build = trim(teacher, tokenizer, keep=[20, 21, 30, 40, 50])
    old = torch.tensor([[20, 30, 21, 50]])
    new = torch.tensor([new_ids(build.record["kept"], old[0].tolist())])
    with torch.no_grad():
        torch.testing.assert_close(build.model(new).logits, teacher(old).logits, rtol=0, atol=1e-5)


def test_special_tokens_have_their_new_ids_in_the_configurations(tokenizer):
    teacher = tiny_model("llama", bos_token_id=45, eos_token_id=46, pad_token_id=44)
    teacher.generation_config.eos_token_id = [46, 47]
    build = trim(teacher, tokenizer, keep=[20])
    kept = build.record["kept"]
    assert [kept[i] for i in (build.model.config.pad_token_id, build.model.config.bos_token_id)] == [44, 45]
    assert kept[build.model.config.eos_token_id] == 46
    assert [kept[one] for one in build.model.generation_config.eos_token_id] == [46, 47]
    assert teacher.generation_config.eos_token_id == [46, 47]


def test_tokens_that_occur_often_enough_are_kept_and_lost_ones_are_recorded(tokenizer, tmp_path):
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    first, second, third = tokens.convert_ids_to_tokens([20, 21, 30])
    path = tmp_path / "texts.txt"
    path.write_text(f"{first} {first} {second}\n{first} {third}\n", encoding="utf-8")
    everything = trim(tiny_model("llama"), tokenizer, texts=str(path))
    assert {20, 21, 30} <= set(everything.record["kept"])
    assert everything.record["lost"] == {}
    frequent = trim(tiny_model("llama"), tokenizer, texts=[str(path)], min_probability=0.5)
    assert 20 in frequent.record["kept"]
    assert frequent.record["lost"] == {second: 1, third: 1}
    assert used_tokens(tokens, [f"{first} {second}"]) == [20, 21]


def test_a_token_in_use_that_is_left_out_is_an_error_that_names_it(tokenizer, tmp_path):
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    first, second = tokens.convert_ids_to_tokens([20, 21])
    path = tmp_path / "texts.txt"
    path.write_text(f"{first} {second}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"leaves out 1 tokens that occur in the texts: '{second}' \(21\)"):
        trim(tiny_model("llama"), tokenizer, keep=[20], texts=str(path))
    build = trim(tiny_model("llama"), tokenizer, keep=[20])
    with pytest.raises(ValueError, match=rf"not in the student's vocabulary: '{second}' \(21\)"):
        new_ids(build.record["kept"], [20, 21], tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"Say which tokens to keep: texts=\[files\]"),
        ({"keep": [20, 99]}, r"ids that do not exist: \[99\]; there are 0 to 63"),
        ({"texts": "no-such-file.txt"}, "texts names 'no-such-file.txt', which is no file"),
    ],
)
def test_mistakes_about_the_tokens_to_keep_are_refused(options, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        trim(tiny_model("llama"), tokenizer, **options)


def test_a_model_without_words_or_without_a_tokenizer_is_refused(tokenizer):
    with pytest.raises(ValueError, match="ViTForImageClassification has no vocabulary"):
        trim(make("vit"), tokenizer, keep=[20])
    with pytest.raises(ValueError, match="its tokenizer is not known; give tokenizer=folder"):
        trim(tiny_model("llama"), None, keep=[20])


def test_a_teacher_from_files_brings_its_tokenizer(tmp_path):
    teacher = tiny_model("llama")
    teacher.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    build = build_student(tmp_path, "trim_vocabulary", plugins=PLUGINS, keep=[20, 21])
    build.model.save_pretrained(tmp_path / "student")
    build.tokenizer.save_pretrained(tmp_path / "student")
    model, tokens = (one.from_pretrained(tmp_path / "student") for one in (AutoModelForCausalLM, AutoTokenizer))
    assert len(tokens) == model.config.vocab_size == len(build.record["kept"])
