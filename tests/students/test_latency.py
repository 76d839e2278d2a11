"""The latency meter: what it times, how it reads its table, and what it refuses; no test here depends on real time."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import MambaConfig, MambaForCausalLM

from hf_distill.students import latency
from hf_distill.students.latency import BlockShape, LatencyTable, measure_blocks, measure_seconds, sample_inputs
from hf_distill.testing import tiny_model

TABLE = LatencyTable(
    attention={0: 0.0, 1: 0.2, 2: 0.3, 4: 0.5},
    mlp={0: 0.0, 10: 0.1, 40: 0.4},
    num_blocks=2,
    rest=0.2,
    batch_size=1,
    length=8,
    device="cpu",
    dtype="float32",
)


MAMBA = MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1))


@pytest.fixture
def work_as_time(monkeypatch):
    """Functions take as many seconds as they do floating-point operations."""

    def flops(function, **options):
        with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            function()
        return float(counter.get_total_flops())

    monkeypatch.setattr(latency, "measure_seconds", flops)


def test_the_median_leaves_out_the_warm_up_and_one_slow_run(monkeypatch):
    clock, durations = [0.0], iter([100.0, 100.0, 1.0, 2.0, 50.0, 1.0, 2.5])
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def function():
        assert not torch.is_grad_enabled()
        clock[0] += next(durations)

    assert measure_seconds(function, warm_up=2, repeats=5) == 2.0
    with pytest.raises(ValueError, match="repeats 0; expected at least one"):
        measure_seconds(function, repeats=0)


def test_a_pruned_model_takes_the_sum_of_its_parts():
    assert TABLE.seconds([4, 1], [40, 10]) == pytest.approx(0.2 + 0.5 + 0.2 + 0.4 + 0.1)
    assert TABLE.seconds([0, 0], [0, 0]) == pytest.approx(0.2)
    assert TABLE.seconds([3], [25]) == pytest.approx(0.2 + 0.4 + 0.25), "between its neighbours"
    assert TABLE.speed_up([4, 4], [40, 40]) == 1.0
    assert TABLE.speed_up([0, 4], [0, 40]) == pytest.approx(2.0 / 1.1)
    assert replace(TABLE, rest=0.0).speed_up([0, 0], [0, 0]) == math.inf
    with pytest.raises(ValueError, match="sizes from 0 to 4, and none for 5"):
        TABLE.seconds([5], [0])


def test_a_table_survives_json():
    assert LatencyTable.from_dict(json.loads(json.dumps(TABLE.to_dict()))) == TABLE


@pytest.mark.parametrize("family", ["llama", "bert_mlm", "gpt2"])
def test_parts_of_a_size_do_the_work_of_that_size(family, work_as_time):
    model = tiny_model(family)
    tokens, width, head = 2 * 8, 32, 8
    table = measure_blocks(model, batch_size=2, length=8, heads=[1, 2], columns=[16])
    assert sorted(table.attention) == [0, 1, 2, 4]
    assert sorted(table.mlp) == [0, 16, 64]
    for heads in (1, 2, 4):
        groups = -(-heads // 2) if family == "llama" else heads
        products = 2 * width * heads * head + 2 * width * groups * head + 2 * 8 * heads * head
        assert table.attention[heads] == 2 * tokens * products
    for columns in (16, 64):
        assert table.mlp[columns] == 2 * tokens * columns * width * (3 if family == "llama" else 2)
    # Besides its blocks the model has its head; BERT has a dense layer before it.
    rest = 2 * tokens * (width * 64 + (width * width if family == "bert_mlm" else 0))
    assert table.rest == rest
    assert table.num_blocks == 2


def test_the_shape_is_that_of_the_family():
    assert BlockShape.of(tiny_model("gemma2", head_dim=16)).head_width == 16
    assert BlockShape.of(tiny_model("gpt2", n_inner=None)).columns == 128
    assert [BlockShape.of(tiny_model("bart"), stack).causal for stack in ("encoder", "decoder")] == [False, True]
    assert BlockShape.of(tiny_model("bert_mlm")).causal is False


@pytest.mark.parametrize("family", ["llama", "bert_mlm", "t5", "bart", "vit"])
def test_sample_inputs_can_be_given_to_the_model_they_are_made_for(family):
    model = tiny_model(family)
    inputs = sample_inputs(model, batch_size=3, length=7)
    with torch.no_grad():
        logits = model(**inputs).logits
    assert logits.shape[:-1] == ((3,) if family == "vit" else (3, 7))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give a model or a shape"),
        ({"model": tiny_model("llama"), "heads": [5]}, r"heads is \[5\]; the model has 4, so 0 to 4 can stay"),
        ({"model": tiny_model("mixtral")}, "routes to experts"),
        ({"model": tiny_model("llama"), "length": 65}, "length is 65; LlamaForCausalLM has 64 positions"),
        ({"model": MAMBA}, "has none of num_attention_heads"),
    ],
)
def test_what_cannot_be_measured_is_an_error_that_says_why(options, message, work_as_time):
    with pytest.raises(ValueError, match=message):
        measure_blocks(**options)
