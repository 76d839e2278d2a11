"""`hf-distill train` and `hf-distill capture` where the student's folder has another tokenizer than the teacher's."""

from __future__ import annotations

import json

import pytest
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_distill.cli.main import main
from hf_distill.testing import tiny_model, tiny_tokenizer


def byte_tokenizer():
    tokenizer = Tokenizer(
        models.BPE({letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, [])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A training's file; the student reads bytes, the teacher, of which a cache is kept, whole words."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, tokenizer in (("student", byte_tokenizer()), ("teacher", tiny_tokenizer())):
        model = tiny_model("llama", seed=len(name), vocab_size=len(tokenizer), max_position_embeddings=128)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"text": " ".join(f"w{5 + (n + k) % 50}" for k in range(9 + n % 5))} for n in range(40)]
    (tmp_path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        **{"output_dir": str(tmp_path / "out"), "student": str(tmp_path / "student"), "plugins": ["tokenizers"]},
        **{"losses": ["task", {"name": "alm", "weight": 100.0}], "max_steps": 2, "use_cpu": True, "report_to": "none"},
        "teacher": {"kind": "cache", "path": str(tmp_path / "kept"), "source": str(tmp_path / "teacher"), "k": 1},
        "data": {"data_files": str(tmp_path / "text.jsonl"), "max_length": 48, "test_fraction": 0.2},
    }
    path = tmp_path / "config.yaml"

    def write(**changes):
        path.write_text(yaml.safe_dump(values | changes))
        return str(path)

    return write


def test_a_captured_teacher_is_not_needed_again(config, tmp_path, capsys):
    """Every split is captured in the teacher's own tokens, and then there is no teacher."""
    assert main(["capture", config(), "--dry-run"]) == 0
    assert "are not in" in " ".join(capsys.readouterr().out.split())
    assert main(["capture", config()]) == 0
    (tmp_path / "teacher").rename(tmp_path / "gone")
    assert main(["train", config(teacher={"kind": "cache", "path": str(tmp_path / "kept")})]) == 0
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["metrics"]["eval_alm_loss"] > 0
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == byte_tokenizer().get_vocab()


def test_a_capture_for_a_loss_on_logits_is_refused_where_the_tokenizers_differ(config, capsys):
    assert main(["capture", config(losses=["task", "forward_kl"])]) != 0
    assert "tokenizer" in capsys.readouterr().err


def test_a_loss_on_logits_is_led_to_the_package_for_two_tokenizers(config, tmp_path, capsys):
    assert main(["train", config(teacher=str(tmp_path / "teacher"), losses=["task", "forward_kl"])]) != 0
    assert "hf-distill-tokenizers" in capsys.readouterr().err
