"""Trains one student after another, each as a YAML file says, in one process group; run by test_combinations.py.

The files hold fields of `DistillationArguments`. The data has every column that some loss reads. Beside each file go
a JSON file of what was logged, and a folder with the student.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import yaml
from accelerate.state import AcceleratorState
from transformers import DataCollatorForSeq2Seq

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, tiny_model, tiny_tokenizer

NUM_EXAMPLES = 8
STUDENT = {"hidden_size": 16}


def dataset() -> object:
    """Sequences with who wrote them, their numbers, and phrases of three tokens."""
    rows = causal_lm_dataset(NUM_EXAMPLES)
    return (
        rows.add_column("source", [index % 2 for index in range(len(rows))])
        .add_column("example_id", list(range(len(rows))))
        .add_column("span_ids", [[place // 3 for place in range(len(tokens))] for tokens in rows["input_ids"]])
    )


def train(path: Path) -> DistillationTrainer:
    """Train one student and write down what happened."""
    student = tiny_model("llama", **STUDENT)
    trainer = DistillationTrainer(
        student,
        DistillationArguments(**yaml.safe_load(path.read_text())),
        train_dataset=dataset(),
        data_collator=DataCollatorForSeq2Seq(tiny_tokenizer(), label_pad_token_id=-100),
    )
    trainer.train()
    trainer.save_model(str(path.with_suffix("")))
    if trainer.is_world_process_zero():
        logs = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        path.with_suffix(".json").write_text(json.dumps(logs))
    return trainer


def main() -> None:
    """Train with every file in the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in sorted(options.folder.glob("*.yaml")):
        AcceleratorState._reset_state()
        trainer = train(path)
    trainer.end()


if __name__ == "__main__":
    main()
