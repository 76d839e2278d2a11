"""The example with two tokenizers: the file with models of one's own, and the script from nothing but Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from hf_distill.cli.main import main
from hf_distill.testing import tiny_model, tiny_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_file_distils_a_teacher_of_words_into_a_student_of_bytes(tmp_path, monkeypatch):
    """A teacher of whole words and a student of bytes."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    words = tiny_tokenizer()
    letters = Tokenizer(
        models.BPE({letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    letters.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters.decoder = decoders.ByteLevel()
    own = PreTrainedTokenizerFast(tokenizer_object=letters)
    for name, tokenizer in (("teacher", words), ("student", own)):
        tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128).save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"text": " ".join(f"w{5 + (n + k) % 50}" for k in range(12))} for n in range(60)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changes = {
        **{name: str(tmp_path / name) for name in ("teacher", "student")},
        "output_dir": str(tmp_path / "out"),
        "data": json.dumps({"data_files": str(tmp_path / "text.jsonl"), "max_length": 64}),
        "max_steps": "2",
    }
    assert main(["train", str(EXAMPLES / "two_tokenizers.yaml"), *(f"--{k}={v}" for k, v in changes.items())]) == 0
    metrics = json.loads((tmp_path / "out" / "run.json").read_text())["metrics"]
    assert 0 < metrics["eval_alm_loss"] < 1
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size == 256


@pytest.mark.slow
def test_the_script_comes_to_its_end(tmp_path):
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "two_tokenizers.py")],
        **{"cwd": tmp_path, "capture_output": True, "text": True, "check": False, "env": environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    _, domains, *lines = done.stdout[done.stdout.index("bits per byte of held-out text") :].splitlines()
    assert domains.split()[:2] == ["code", "docs"]
    for line in lines:
        assert 2 < float(line.split()[1]) < 6, "a byte at random takes 8 bits"
    assert [line.split()[0] for line in lines] == ["text", "text-and-alm"]
