"""A student distilled from a teacher with another tokenizer (two_tokenizers.yaml), and one that learns from text alone.

    python examples/two_tokenizers.py

A teacher of subwords and an untrained student of bytes are made first, in outputs/two-tokenizers-models, on text that
every Python installation holds. It takes a minute and a half on one core. Put folders of real models into the file to
distil one, and run `hf-distill train two_tokenizers.yaml`.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from hf_distill import load_text_data

CONFIG = Path(__file__).with_name("two_tokenizers.yaml")
MODELS, OUTPUT = Path("outputs/two-tokenizers-models"), Path("outputs/two-tokenizers")
END = "<end>"


def make_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE; of 257 tokens, each byte is one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = {"special_tokens": [END], "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def make_model(folder: Path, tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int, spread: float) -> None:
    """Save an untrained model with its tokenizer."""
    set_seed(0)
    shape = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
    }
    end = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = LlamaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True, **shape, **end
    )
    config.initializer_range = spread
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train(config: dict[str, Any]) -> dict[str, Any]:
    """`hf-distill train` with this configuration; what it measured."""
    folder = Path(config["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, "-m", "hf_distill.cli", "train", str(folder / "config.yaml")], check=True)
    return json.loads((folder / "run.json").read_text())["metrics"]


def bits_per_byte(metrics: dict[str, Any]) -> dict[str, float]:
    """Of each domain of the text; a token of the student is a byte."""
    losses = {name.split("_")[1]: value for name, value in metrics.items() if name.endswith("_task_loss")}
    return {domain: loss / math.log(2) for domain, loss in losses.items()}


def main() -> None:
    """Make the models, train two students and compare them."""
    config = yaml.safe_load(CONFIG.read_text())
    if not (MODELS / "teacher").exists():
        texts = load_text_data(config["data"])["train"]["text"]
        make_model(MODELS / "student", make_tokenizer(texts, 257), width=48, layers=2, spread=0.1)
        make_model(MODELS / "start", make_tokenizer(texts, 2048), width=160, layers=3, spread=0.05)
        new = {**config, "student": str(MODELS / "start"), "losses": ["task"], "output_dir": str(MODELS / "unfinished")}
        new |= {"data": {**config["data"], "max_length": 64}, "max_steps": 250, "per_device_train_batch_size": 16}
        train({name: value for name, value in new.items() if name not in ("teacher", "plugins")})
        (MODELS / "unfinished").rename(MODELS / "teacher")
    found = {
        title: bits_per_byte(train({**config, "losses": losses, "output_dir": str(OUTPUT / title)}))
        for title, losses in {"text": ["task"], "text-and-alm": config["losses"]}.items()
    }
    print("\nbits per byte of held-out text\n" + f"{'':14}" + "".join(f"{domain:>10}" for domain in found["text"]))
    for title, values in found.items():
        print(f"{title:14}" + "".join(f"{value:10.3f}" for value in values.values()))


if __name__ == "__main__":
    main()
