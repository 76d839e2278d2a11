"""One loss, whatever the source: a resident, a sharded and a cached teacher on two processes under ZeRO-3."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_distill.cache.rows import BOUND
from hf_distill.cache.store import CacheStore
from hf_distill.testing import tiny_model, tiny_tokenizer

from .launching import launch
from .teacher_sources import BY_LIKELIHOOD, other_tokenizer, step

pytestmark = pytest.mark.distributed

SCRIPT = Path(__file__).with_name("teacher_sources.py")


def test_resident_sharded_and_cached_teachers_give_one_gradient_within_the_stated_error(tmp_path):
    launch("zero3", 2, SCRIPT, "--output", str(tmp_path))
    start = tiny_model("llama", hidden_size=16).state_dict()

    def gradient(name):
        after = load_file(tmp_path / name / "model.safetensors")
        return torch.cat([(after[key].double() - start[key].double()).flatten() for key in sorted(after)])

    resident = gradient("resident")
    assert resident.norm() > 1e-3

    def distance(name):
        return ((gradient(name) - resident).norm() / resident.norm()).item()

    assert distance("sharded") < 1e-5
    # Each probability is off by a factor of e^b at most, and the gradient of the logits is q - p.
    assert 0 < distance("filling") < np.expm1(2 * BOUND)
    assert distance("cached") == distance("filling"), "what is read is not what was used while it was filled"
    assert len(CacheStore(tmp_path / "cache")) == 8
    assert distance("on_policy") > 0.1  # other text, so another gradient
    # A loss that computes with rows through the engine, on a teacher's own tokens: as on one process.
    step(other_tokenizer("resident"), tmp_path / "alone", accumulation=4, **BY_LIKELIHOOD)
    alone = gradient("alone")
    assert ((gradient("other_tokenizer") - alone).norm() / alone.norm()).item() < 1e-4


def test_capture_on_two_processes_writes_shards_from_each_and_counts_the_examples_of_both(tmp_path):
    tokenizer = tiny_tokenizer()
    tiny_model("llama").save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    words = sorted(tokenizer.get_vocab())
    rows = [{"text": " ".join(words[n % 50 :])} for n in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "output_dir": str(tmp_path / "out"),
        "teacher": {"kind": "cache", "path": str(tmp_path / "kept"), "source": str(tmp_path / "teacher"), "k": 4},
        "losses": ["forward_kl"],
        "data": {"data_files": str(tmp_path / "text.jsonl"), "max_length": 16},
        "use_cpu": True,
        "report_to": "none",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    script = tmp_path / "command.py"
    script.write_text("import sys\nfrom hf_distill.cli.main import main\nsys.exit(main(sys.argv[1:]))\n")
    done = launch("zero3", 2, script, "capture", str(tmp_path / "config.yaml"))
    store = CacheStore(tmp_path / "kept")
    assert {shard["shard"][:11] for shard in store.shards} == {"shard-00000", "shard-00001"}
    assert f"kept: {len(store):,} examples" in " ".join(done.stdout.split())
