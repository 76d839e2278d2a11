"""A big model by way of a small one (growth.yaml), killed while it trains small, against as much training big alone.

    python examples/growth.py

A model with random weights is made first, in outputs/growth-models: 4 blocks of width 96 on bytes. Put the folder of a
real one into growth.yaml, or name what is grown with the preset `bert2bert`, and run `hf-distill stages growth.yaml`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

CONFIG = Path(__file__).with_name("growth.yaml")
MODEL, OUTPUT, ALONE = Path("outputs/growth-models/big"), Path("outputs/growth"), Path("outputs/growth-alone")
STEPS = 30 + 150 // 6 + 80  # of the big model, at the price of the V-cycle


def make_model() -> None:
    """Save the big model as it begins, and its tokenizer of bytes."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<end>": 0, **{letter: i for i, letter in enumerate(letters, 1)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    set_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = LlamaConfig(vocab_size=len(fast), max_position_embeddings=64, initializer_range=0.1, **sizes)
    LlamaForCausalLM(config).save_pretrained(MODEL)
    fast.save_pretrained(MODEL)


def stages(config: Path) -> list[str]:
    """The command that runs a file."""
    return [sys.executable, "-m", "hf_distill.cli", "stages", str(config)]


def losses(folder: Path) -> dict[str, float]:
    """The cross-entropy of held-out text at the end of each stage."""
    record = json.loads((folder / "run.json").read_text())
    return {stage["name"]: stage["metrics"]["eval_task_loss"] for stage in record["stages"]}


def main() -> None:
    """Make the model, run the cycle with an interruption, train big alone, and compare."""
    if not MODEL.exists():
        make_model()
    run = subprocess.Popen(stages(CONFIG))
    while run.poll() is None and not list(OUTPUT.glob("stages/01-level-2/trainer/checkpoint-60/trainer_state.json")):
        time.sleep(0.02)
    run.kill()
    run.wait()
    print("killed in the second stage; finished so far:", *(path.parent.name for path in OUTPUT.glob("stages/*/model")))
    subprocess.run(stages(CONFIG), check=True)
    alone = yaml.safe_load(CONFIG.read_text()) | {"output_dir": str(ALONE)}
    alone["stages"] = [{"name": "alone", "losses": ["task"], "max_steps": STEPS}]
    path = MODEL.with_name("alone.yaml")
    path.write_text(yaml.safe_dump(alone))
    subprocess.run(stages(path), check=True)
    for name, loss in {**losses(OUTPUT), **losses(ALONE)}.items():
        print(f"{name}: {loss:.3f} nats a byte")


if __name__ == "__main__":
    main()
