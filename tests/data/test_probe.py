"""The probe by domain: values against plain averages, shares of processes, the teacher's cache.

Runs of two processes start this file as a script.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from hf_distill.data.probe import DomainProbe, count_bytes
from hf_distill.testing import causal_lm_dataset, tiny_tokenizer

DOMAINS = ["b", "a", "b", "c", "a", "b", "b"]
SUMS = [3.0, 1.5, 2.25, 8.0, 0.5, 1.0, 4.0]
COUNTS = [3, 2, 1, 4, 1, 0, 2]
CROSS_ENTROPY = {"a": 2.0 / 3, "b": 10.25 / 6, "c": 2.0}
SCALE = {"student": 2.0, "teacher": 1.0}


def probe(*, batch_size=2, accelerator=None, counts=COUNTS, calls=None, **options):
    """A probe whose examples are their own indices, over `SUMS` and `COUNTS`; the student is twice as bad."""

    def forward(model, indices):
        if calls is not None:
            calls.append((model, indices.tolist()))
        return SCALE[model] * torch.tensor(SUMS)[indices], torch.tensor(counts)[indices]

    options = {"domains": DOMAINS, "forward": forward, "collate": torch.tensor} | options
    accelerator = accelerator or Accelerator(cpu=True)
    return DomainProbe(range(len(DOMAINS)), batch_size=batch_size, accelerator=accelerator, **options)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 64])
def test_the_mean_is_over_tokens_and_not_over_examples_or_batches(batch_size):
    measured = probe(batch_size=batch_size)
    assert tuple(measured.domains) == ("a", "b", "c")
    assert measured.cross_entropy("teacher") == pytest.approx(CROSS_ENTROPY, rel=1e-15)
    assert measured.cross_entropy("student") == pytest.approx({n: 2 * v for n, v in CROSS_ENTROPY.items()}, rel=1e-15)


@pytest.mark.parametrize(("num_processes", "batch_size"), [(2, 2), (2, 64), (3, 1), (3, 2), (5, 4), (8, 2)])
def test_processes_make_equally_many_passes_of_equal_size_and_count_each_example_once(num_processes, batch_size):
    calls = [[] for _ in range(num_processes)]
    totals = torch.zeros(2, 3, dtype=torch.float64)
    shares = [
        probe(
            batch_size=batch_size,
            accelerator=SimpleNamespace(
                num_processes=num_processes,
                process_index=rank,
                device=torch.device("cpu"),
                # Each process sees what it would add; the sum is taken here. Ones keep the check for zeros quiet.
                reduce=lambda values, reduction: (totals.add_(values), torch.ones_like(values))[1],
            ),
            calls=calls[rank],
        )
        for rank in range(num_processes)
    ]
    for share in shares:
        share.cross_entropy("teacher")
    shapes = {tuple(len(indices) for _, indices in of_rank) for of_rank in calls}
    assert len(shapes) == 1
    assert len(set(shapes.pop())) == 1
    sums, counts = totals
    assert dict(zip("abc", (sums / counts).tolist(), strict=True)) == pytest.approx(CROSS_ENTROPY, rel=1e-15)
    assert {index for of_rank in calls for _, indices in of_rank for index in indices} == set(range(len(DOMAINS)))


def test_sums_are_kept_in_double_precision():
    # In float32, 2^24 + 1 is 2^24: a thousand small terms after it would all be lost.
    values = torch.tensor([2.0**24, *[1.0] * 1000])
    measured = DomainProbe(
        range(1001),
        domains=["a"] * 1001,
        forward=lambda _, indices: (values[indices], torch.ones(len(indices))),
        collate=torch.tensor,
        batch_size=1,
        accelerator=Accelerator(cpu=True),
    )
    assert measured.cross_entropy("student")["a"] == (2.0**24 + 1000) / 1001


def test_the_frozen_teacher_is_measured_once_and_the_student_each_time():
    calls = []
    measured = probe(batch_size=7, calls=calls, num_bytes=[1] * 7)
    for _ in range(2):
        measured.cross_entropy("teacher")
        measured.bits_per_byte("teacher")
        measured.cross_entropy("student")
    assert [model for model, _ in calls] == ["teacher", "student", "student"]


def test_the_teachers_figures_are_in_the_state_and_count_only_for_the_same_teacher_and_data():
    first = probe(fingerprint="big-model data-1")
    expected = first.cross_entropy("teacher")
    state = json.loads(json.dumps(first.state_dict()))
    calls = []
    same = probe(fingerprint="big-model data-1", calls=calls)
    same.load_state_dict(state)
    assert same.cross_entropy("teacher") == expected
    assert not calls
    other = probe(fingerprint="other-model data-1", calls=calls)
    other.load_state_dict(state)
    other.cross_entropy("teacher")
    assert calls
    fresh = probe()
    fresh.load_state_dict(probe().state_dict())
    assert fresh.cross_entropy("teacher") == expected


def test_bits_per_byte_are_nats_per_byte_over_log_two():
    num_bytes = [4, 2, 8, 16, 3, 5, 1]
    measured = probe(num_bytes=num_bytes).bits_per_byte("student")
    for domain, value in measured.items():
        members = [index for index, name in enumerate(DOMAINS) if name == domain]
        nats = sum(2 * SUMS[index] for index in members)
        assert value == pytest.approx(nats / math.log(2) / sum(num_bytes[index] for index in members), rel=1e-15)
    with pytest.raises(ValueError, match="number of bytes of each probe example"):
        probe().bits_per_byte("student")


def test_bytes_are_those_of_the_text_column_or_of_the_decoded_labels():
    rows = [
        {"text": "zwölf", "input_ids": [1, 5, 17, 6, 2], "labels": [-100, -100, 17, 6, 2]},
        {"text": "", "input_ids": [1, 5], "labels": [-100, 5]},
    ]
    assert count_bytes(rows, text_column="text") == [6, 0]
    # "w17 w6" and "w5"; the end of the sequence is no text.
    assert count_bytes(rows, tokenizer=tiny_tokenizer()) == [6, 2]
    dataset = causal_lm_dataset(3)
    words = [" ".join(f"w{token}" for token in tokens) for tokens in dataset["input_ids"]]
    assert count_bytes(dataset, tokenizer=tiny_tokenizer()) == [len(text) for text in words]
    with pytest.raises(ValueError, match="probe set has no column 'text'"):
        count_bytes(dataset, text_column="text")


def test_a_domain_without_a_token_to_predict_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"no token to predict in a, c\."):
        probe(counts=[1, 0, 1, 0, 0, 1, 1]).cross_entropy("student")


def test_an_empty_probe_set_is_an_error():
    with pytest.raises(ValueError, match="has no examples"):
        probe(domains=[])


def test_domains_may_be_numbers():
    assert tuple(probe(domains=[1, 0, 1, 2, 0, 1, 1]).domains) == ("0", "1", "2")


@pytest.mark.distributed
def test_two_processes_get_the_figures_of_one(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", __file__]
    subprocess.run([*command, str(tmp_path)], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=120)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank in ranks:
        assert rank["teacher"] == pytest.approx(CROSS_ENTROPY, rel=1e-15)
        assert rank["restored"] == rank["teacher"]
    # Rank 0 has other probe data than the checkpoint; were rank 1 to use its figures, rank 0 would wait for ever.
    assert [rank["passes"] for rank in ranks] == [2, 2]
    assert np.allclose(list(ranks[0]["student"].values()), 2 * np.array(list(CROSS_ENTROPY.values())), rtol=1e-15)


def main(folder):
    accelerator, calls = Accelerator(cpu=True), []
    measured = probe(accelerator=accelerator, fingerprint="same")
    figures = {model: measured.cross_entropy(model) for model in ("student", "teacher")}
    restored = probe(accelerator=accelerator, calls=calls, fingerprint="same" if accelerator.process_index else "other")
    restored.load_state_dict(measured.state_dict())
    figures |= {"restored": restored.cross_entropy("teacher"), "passes": len(calls)}
    (folder / f"{accelerator.process_index}.json").write_text(json.dumps(figures))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
