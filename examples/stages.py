"""Four stages of distillation (stages.yaml), killed in the middle of the third and taken up again.

    python examples/stages.py

Tiny teachers are made first, in outputs/stages-models: untrained ones, since this shows how stages run, not how good
their student is. Put folders of real models into stages.yaml to train one, and run `hf-distill stages stages.yaml`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

CONFIG = Path(__file__).with_name("stages.yaml")
MODELS, OUTPUT = Path("outputs/stages-models"), Path("outputs/stages")
SHAPES = {"general": (96, 4), "tuned": (96, 4), "student": (48, 2)}


def make_models() -> None:
    """Save teachers and student, of bytes, and the task's text: the docstrings of some modules of Python."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"<end>": 0, **{letter: i for i, letter in enumerate(letters, 1)}}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    for seed, (name, (width, layers)) in enumerate(SHAPES.items()):
        set_seed(seed)
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
        config = LlamaConfig(vocab_size=len(fast), num_attention_heads=4, max_position_embeddings=64, **sizes)
        LlamaForCausalLM(config).save_pretrained(MODELS / name)
        fast.save_pretrained(MODELS / name)
    modules = [module for module in sys.modules.values() if getattr(module, "__doc__", None)]
    rows = [{"text": module.__doc__} for module in modules if len(module.__doc__) > 200]
    (MODELS / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def finished() -> list[str]:
    """The stages that have ended, in order."""
    return sorted(path.parent.name for path in OUTPUT.glob("stages/*/model"))


def main() -> None:
    """Make the models, start the run, kill it in its third stage, and run it to its end."""
    if not (MODELS / "task.jsonl").exists():
        make_models()
    command = [sys.executable, "-m", "hf_distill.cli", "stages", str(CONFIG)]
    run = subprocess.Popen(command)
    while run.poll() is None and not list(OUTPUT.glob("stages/02-adaptive/trainer/checkpoint-10/trainer_state.json")):
        time.sleep(0.02)
    run.kill()
    run.wait()
    before = finished()
    print("killed; finished so far:", ", ".join(before))
    subprocess.run(command, check=True)
    print("finished now:", ", ".join(finished()))
    record = json.loads((OUTPUT / "run.json").read_text())
    print("projections went on in:", ", ".join(one["name"] for one in record["stages"] if one["carried_over"]))


if __name__ == "__main__":
    main()
