"""`ziplm` and the shapes that it leaves: what they compute, that they come back, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import torch
from hf_distill_prune.structures import NoAttention, blocks_of, expand, keep_structures, matrix
from hf_distill_prune.ziplm import TABLE, column_sizes, measure_table, prune
from transformers import AutoModelForSequenceClassification

from hf_distill import (
    LatencyTable,
    Plugins,
    build_student,
    disable_from_pretrained,
    enable_from_pretrained,
    load_student,
)
from hf_distill.testing import tiny_inputs, tiny_model, tiny_tokenizer

from .conftest import batches, make, output

PLUGINS = Plugins(["prune"])


@contextlib.contextmanager
def stock_loading():
    """`from_pretrained` of transformers loads pruned students."""
    enable_from_pretrained(["prune"])
    try:
        yield
    finally:
        disable_from_pretrained()


def pruned(model, table, speed_up=2.0, **options):
    options = {"trials": 3, "table": table, **options}
    return build_student(model, lambda teacher: prune(teacher, batches(teacher), speed_up=speed_up, **options))


@torch.no_grad()
def masked(model, groups, columns):
    """A model in which what goes is zero where it is read, which needs no surgery."""
    model = copy.deepcopy(model)
    for block, kept_groups, kept_columns in zip(blocks_of(model), groups, columns, strict=True):
        for out, kept in (
            (block.attention_out, expand(kept_groups, block.group_width)),
            (block.mlp_out, torch.tensor(kept_columns, dtype=torch.long)),
        ):
            weight = matrix(out)
            zeros = torch.zeros_like(weight)
            zeros[:, kept] = weight[:, kept]
            weight.copy_(zeros)
    return model


def test_a_sliced_model_computes_what_a_masked_one_computes(model):
    first = blocks_of(model)[0]
    groups = [[first.num_groups - 1], list(range(first.num_groups))[: max(first.fewest_groups, 1)]]
    columns = [[1, 5, 60], [0, 2, 3, 63]]
    wanted = output(masked(model, groups, columns))
    for block, kept_groups, kept_columns in zip(blocks_of(model), groups, columns, strict=True):
        block.keep(kept_groups, kept_columns)
    torch.testing.assert_close(output(model), wanted, rtol=1e-5, atol=1e-5)


def test_a_block_without_any_head_or_column_computes_what_a_masked_one_computes(tmp_path):
    model = make("bert, classes")
    wanted = output(masked(model, [[], [0]], [[], []]))
    keep_structures(model, heads=[0, 1], columns=[0, 0])
    assert isinstance(model.bert.encoder.layer[0].attention.self, NoAttention)
    torch.testing.assert_close(output(model), wanted, rtol=1e-5, atol=1e-5)
    model(**tiny_inputs(model), labels=torch.tensor([0, 1, 2])).loss.backward()


def test_a_pruned_student_comes_back_with_the_same_logits(model, table, tmp_path):
    before = output(model)
    build = pruned(model, table, 1.8)
    assert torch.equal(output(model), before), "the teacher was changed"
    assert build.record["speed_up"] >= 1.8
    student = build.model
    wanted = output(student)
    student.save_pretrained(tmp_path)
    assert torch.equal(output(load_student(tmp_path, plugins=["prune"])), wanted)
    with stock_loading():
        assert torch.equal(output(type(student).from_pretrained(tmp_path)), wanted)
    assert sum(p.numel() for p in student.parameters()) < sum(p.numel() for p in model.parameters())
    assert build.layer_map == [0, 1]
    operators = {source.operator for source in build.mapping.values()}
    assert operators <= {"copy", "rows", "obs"}
    assert "obs" in operators


def test_a_student_pruned_in_half_precision_stays_so_and_comes_back_with_the_same_output(table, tmp_path):
    student = pruned(make("bert, classes").to(torch.bfloat16), table).model
    assert {parameter.dtype for parameter in student.parameters()} == {torch.bfloat16}
    student.save_pretrained(tmp_path)
    assert torch.equal(output(load_student(tmp_path, plugins=["prune"])), output(student))


def test_a_pruned_student_generates_the_same_with_and_without_a_cache(table):
    student = pruned(make("llama, shared heads"), table, 2.5).model
    prompt = tiny_inputs(student, num_examples=1)["input_ids"]
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    with_cache = student.generate(prompt, use_cache=True, **options)
    assert torch.equal(with_cache, student.generate(prompt, use_cache=False, **options))


def test_every_speed_up_is_reached_and_more_of_it_never_leaves_a_slower_model(table):
    model = make("bert, classes")
    found = [pruned(model, table, speed_up, trials=0).record for speed_up in (1, 1.5, 2, 3, 4, 5)]
    seconds = [table.seconds(one["heads"], one["columns"]) for one in found]
    assert seconds == sorted(seconds, reverse=True)
    for one, speed_up in zip(found, (1, 1.5, 2, 3, 4, 5), strict=True):
        assert one["speed_up"] >= speed_up
    assert found[0]["heads"] == [4, 4]
    assert found[0]["columns"] == [64, 64], "nothing has to go"


def test_a_student_that_is_pruned_again_gets_no_head_back_and_reaches_the_speed_up(table, tmp_path):
    first = pruned(make("bert, classes"), table, 1.5)
    first.model.save_pretrained(tmp_path / "first")
    second = pruned(load_student(tmp_path / "first", plugins=["prune"]), None, 3.0)  # the table is in the configuration
    assert second.record[TABLE] == table.to_dict()
    for before, after in zip(first.record["heads"], second.record["heads"], strict=True):
        assert after <= before
    assert table.speed_up(second.record["heads"], second.record["columns"]) >= 3
    second.model.save_pretrained(tmp_path / "second")
    assert torch.equal(output(load_student(tmp_path / "second", plugins=["prune"])), output(second.model))


def test_a_student_of_a_frozen_teacher_can_be_trained(table):
    student = pruned(make("bert, classes").requires_grad_(False), table).model
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_the_update_lowers_the_error_on_other_inputs(table):
    """The same heads and columns, with and without it, on inputs that were not calibrated with."""
    model = make("bert, classes")
    build = pruned(model, table, trials=0)
    kept = masked(model, build.record["kept_groups"], build.record["kept_columns"])
    inputs = tiny_inputs(model, num_examples=32, seed=99)
    with torch.no_grad():
        wanted = model(**inputs).logits
        updated, plain = (float((one(**inputs).logits - wanted).square().mean()) for one in (build.model, kept))
    assert updated < plain


def test_the_table_measures_exactly_the_sizes_that_can_be_chosen():
    measured = measure_table(make("llama, shared heads"), length=4)
    assert set(measured.mlp) == set(column_sizes(64))
    assert set(measured.attention) == {0, 2, 4}, "two heads share keys and values"
    assert LatencyTable.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


def test_the_builder_prunes_with_files_of_texts_and_a_table_and_its_student_comes_back(tmp_path, table):
    model = make("bert, classes")
    model.save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "texts.txt").write_text("w7 w8 w9\n\nw11 w12\n" * 8)
    (tmp_path / "table.json").write_text(json.dumps(table.to_dict()))
    build = build_student(
        tmp_path / "model",
        "ziplm",
        plugins=PLUGINS,
        speed_up=2,
        texts=str(tmp_path / "texts.txt"),
        table=str(tmp_path / "table.json"),
        trials=2,
    )
    assert build.model.config.hf_distill["builder"] == "ziplm"
    build.model.save_pretrained(tmp_path / "student")
    with stock_loading():
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert torch.equal(output(loaded), output(build.model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speed_up": 0.5}, "speed_up is 0.5; expected 1 or more"),
        ({"speed_up": 50}, r"without any head and column that can go the model is 5.16 times as fast.*Ask for less"),
    ],
)
def test_an_impossible_speed_up_is_refused(options, message, table):
    with pytest.raises(ValueError, match=message):
        pruned(make("bert, classes"), table, **options)


def test_what_cannot_be_pruned_is_refused(table, tmp_path):
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has two stacks of blocks"):
        pruned(tiny_model("t5"), table)
    with pytest.raises(ValueError, match="experts"):
        pruned(tiny_model("mixtral"), table)
    with pytest.raises(ValueError, match="ViTForImageClassification are of no known layout; there are those of BERT"):
        pruned(tiny_model("vit"), table)
    model = make("bert, classes")
    with pytest.raises(ValueError, match=r"Block 1 is to keep 5 heads and 3 columns; it has 4 groups of 1 heads"):
        keep_structures(model, heads=[4, 5], columns=[3, 3])
    with pytest.raises(ValueError, match="no batches to calibrate with"):
        prune(model, [], speed_up=2, table=table)
    with pytest.raises(ValueError, match=r"texts names 'absent.txt', which is no file"):
        build_student(model, "ziplm", plugins=PLUGINS, speed_up=2, texts=["absent.txt"])
    keep_structures(model, heads=[3, 4], columns=[64, 64])
    with pytest.raises(ValueError, match="has lost heads or columns already"):
        pruned(model, None)
