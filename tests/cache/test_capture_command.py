"""``hf-distill capture`` and ``hf-distill cache``: what they keep, say and refuse; what survives an interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from hf_distill.cache.store import CacheStore
from hf_distill.cli.main import main
from hf_distill.testing import tiny_model, tiny_tokenizer

# Slow enough for a kill to come in the middle; a shard for every batch.
SLOW = """
import sys, time
from hf_distill.cache import teacher
from hf_distill.cli.main import main

writer = teacher.CacheWriter
teacher.CacheWriter = lambda *args, **options: writer(*args, **options, shard_bytes=1)
fill = teacher.CacheTeacher.fill

def slowly(self, batch):
    time.sleep(0.05)
    return fill(self, batch)

teacher.CacheTeacher.fill = slowly
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A training's file whose teacher is a cache with a source."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    tokenizer = tiny_tokenizer()
    for name, seed in (("teacher", 1), ("other", 2)):
        tiny_model("llama", seed=seed).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    words = sorted(tokenizer.get_vocab())
    rows = [{"text": " ".join(words[n % 7 :] + words[: n % 11])} for n in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "output_dir": str(tmp_path / "out"),
        "teacher": {"kind": "cache", "path": str(tmp_path / "kept"), "source": str(tmp_path / "teacher"), "k": 8},
        "student": {"builder": "fresh", "hidden_size": 16, "layers": 1},
        "losses": ["task", "forward_kl"],
        "data": {"data_files": str(tmp_path / "text.jsonl"), "max_length": 16, "test_fraction": 0.2},
        "max_steps": 2,
        "use_cpu": True,
        "report_to": "none",
        "per_device_eval_batch_size": 4,
    }
    path = tmp_path / "config.yaml"

    def write(**changes):
        path.write_text(yaml.safe_dump(values | changes))
        return str(path)

    return write


def stored(folder):
    store = CacheStore(folder / "kept")
    return {key: store.read([key]).rows.log_probs.tobytes() for key in store.keys()}


def test_training_does_not_need_the_teacher_after_a_capture(config, tmp_path, capsys):
    assert main(["capture", config()]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "asked about" in out
    assert "bytes a token" in out
    (tmp_path / "teacher").rename(tmp_path / "gone")
    assert main(["train", config(teacher={"kind": "cache", "path": str(tmp_path / "kept")})]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["metrics"]["eval_forward_kl_loss"] > 0
    dropped = {"builder": "layer_drop", "layers": 1}
    assert main(["train", config(teacher={"kind": "cache", "path": str(tmp_path / "kept")}, student=dropped)]) == 2
    assert "takes the teacher's weights, and a cache has none" in " ".join(capsys.readouterr().err.split())
    assert main(["capture", config(teacher=str(tmp_path / "gone"))]) == 2
    assert "expected a cache to fill and its source" in " ".join(capsys.readouterr().err.split())


def test_dry_run_keeps_nothing_and_says_how_much_a_capture_would_take(config, tmp_path, capsys):
    assert main(["capture", config(), "--dry-run"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "examples of" in out
    assert "MB and" in out
    assert not (tmp_path / "kept").exists()
    assert main(["capture", config(), "--splits", "train,tset"]) == 2
    assert "--splits has tset; expected some of train,probe,test" in " ".join(capsys.readouterr().err.split())
    assert main(["capture", config(), "--data", '{"task": "masked_lm", "texts": "python"}']) == 2
    assert "masks other tokens in every epoch" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_capture_keeps_what_was_finished_and_does_not_repeat_it(how, config, tmp_path):
    script = tmp_path / "slow.py"
    script.write_text(SLOW)
    command = [sys.executable, str(script), "capture", config()]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list((tmp_path / "kept").glob("shard-*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.3)
        process.send_signal(how)
        out = process.communicate(timeout=30)[0]
    assert process.returncode == (130 if how == signal.SIGINT else -how)
    if how == signal.SIGINT:
        assert f"go on with: hf-distill capture {tmp_path / 'config.yaml'}" in " ".join(out.split())
    before = stored(tmp_path)
    assert before
    shards = {path: path.stat().st_mtime_ns for path in (tmp_path / "kept").glob("shard-*")}
    assert main(["capture", config()]) == 0
    after = stored(tmp_path)
    assert len(after) > len(before)
    assert before.items() <= after.items()
    store = CacheStore(tmp_path / "kept")
    assert sum(entry["examples"] for entry in store.shards) == len(store), "an example was kept twice"
    journalled = {tmp_path / "kept" / entry["shard"] for entry in store.shards}
    for path, changed in shards.items():
        assert path not in journalled or path.stat().st_mtime_ns == changed, "a finished shard was written again"


def test_cache_command_tells_size_damage_and_distance(config, tmp_path, capsys):
    path = config()
    main(["capture", path])
    values = yaml.safe_load(Path(path).read_text())
    more = {**values["teacher"], "path": str(tmp_path / "more"), "k": 32}
    main(["capture", config(teacher=more)])
    other = {**values["teacher"], "path": str(tmp_path / "other-kept"), "source": str(tmp_path / "other")}
    main(["capture", config(teacher=other)])
    capsys.readouterr()

    assert main(["cache", "info", str(tmp_path / "kept"), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert info["settings"]["k"] == 8
    assert info["sample"]["kept_columns"] == 8
    assert 0 < info["sample"]["probability_of_the_tail"] < 1
    assert info["bytes_per_token"] > 8

    assert main(["cache", "compare", str(tmp_path / "kept"), str(tmp_path / "more"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)
    assert compared["common_examples"] == info["examples"]
    assert compared["sample"]["same_most_likely_token"] > 0.99  # those within a step of one another may swap
    assert all(value > 0 for name, value in compared["sample"].items() if "KL" in name)
    assert main(["cache", "compare", str(tmp_path / "kept"), str(tmp_path / "other-kept")]) == 2
    assert "of another teacher" in " ".join(capsys.readouterr().err.split())

    assert main(["cache", "verify", str(tmp_path / "kept")]) == 0
    shard = next((tmp_path / "kept").glob("shard-*"))
    content = bytearray(shard.read_bytes())
    content[-5] ^= 1
    shard.write_bytes(content)
    assert main(["cache", "verify", str(tmp_path / "kept")]) == 1
    assert shard.name in capsys.readouterr().out
