"""The examples run as they stand in the folder, alone and launched by accelerate with each of the configurations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForCausalLM

from hf_distill.testing import tiny_model, tiny_tokenizer

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = sorted((EXAMPLES / "configs").glob("*.yaml"))
TINY = ["--max_length", "16", "--max_steps", "2", "--per_device_train_batch_size", "2", "--save_strategy", "no"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A teacher with its tokenizer, and text."""
    folder = tmp_path_factory.mktemp("examples")
    tokenizer = tiny_tokenizer()
    tiny_model("llama", vocab_size=len(tokenizer)).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    words = sorted(tokenizer.get_vocab())
    rows = [{"text": " ".join(words[n % 50 :][: 10 + n % 7])} for n in range(400)]
    (folder / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def run(folder, output, *arguments, launcher=()):
    """Run the script to its end and give what it left in its output folder."""
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(EXAMPLES / "causal_lm.py"), "--teacher", str(folder / "teacher")]
    command += ["--output_dir", str(output), *TINY, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done.stdout


def test_the_script_distils_text_of_the_python_installation(folder, tmp_path):
    output = run(folder, tmp_path, "--student", '{"builder": "layer_drop", "layers": 1}')
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config.num_hidden_layers == 1
    assert "eval_perplexity" in output


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_the_script_is_short_enough_to_be_copied(path):
    assert len(path.read_text().splitlines()) < 100


def test_offline_training_does_not_need_the_teacher(folder, tmp_path):
    """Both halves of examples/offline.py; the second in a folder from which no teacher can be reached."""
    environment = {**os.environ, "HF_HOME": str(folder / "hf"), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(EXAMPLES / "offline.py")]
    for half in (
        ["capture", "--teacher", str(folder / "teacher"), "--cache", str(tmp_path / "kept"), "--k", "4"],
        ["train", "--cache", str(tmp_path / "kept"), "--output_dir", str(tmp_path / "student"), "--max_steps", "2"],
    ):
        done = subprocess.run([*script, *half], capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]
        assert "B a token" in done.stdout or "eval_forward_kl_loss" in done.stdout
    AutoModelForCausalLM.from_pretrained(tmp_path / "student")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_every_configuration(path):
    config = load_config_from_file(str(path))
    sharded = path.stem.startswith("zero")
    assert (config.distributed_type == "DEEPSPEED") == sharded
    if sharded:
        assert config.deepspeed_config["zero_stage"] == int(path.stem[len("zero")])
        assert (config.deepspeed_config["offload_param_device"] == "cpu") == ("offload" in path.stem)
    assert config.num_processes == (8 if path.stem.endswith("8gpu") else 2 if path.stem == "ddp_cpu" else 1)


RUNS = [
    pytest.param(
        path, id=path.stem, marks=() if path.stem in ("ddp_cpu", "zero2_8gpu", "zero3_8gpu") else pytest.mark.slow
    )
    for path in CONFIGS
]


@pytest.mark.distributed
@pytest.mark.parametrize("path", RUNS)
def test_the_script_ends_well_under_every_configuration(path, folder, tmp_path):
    # What the machine lacks is overridden: GPUs, as many of them, and their number format.
    processes = "1" if path.stem == "one_gpu" else "2"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(path)]
    launcher += ["--num_processes", processes, "--mixed_precision", "no"]
    arguments = ["--dataset", str(folder / "text.jsonl"), "--gradient_accumulation_steps", "2", "--use_cpu", "true"]
    output = run(folder, tmp_path, *arguments, launcher=launcher)
    assert output.count("eval_perplexity") == 1  # two processes that did not find each other would each print them
    AutoModelForCausalLM.from_pretrained(tmp_path)
