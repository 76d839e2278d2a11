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
from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

from hf_distill import DistillationArguments, DistillationTrainer
from hf_distill.testing import causal_lm_dataset, classification_dataset, tiny_model, tiny_tokenizer

NUM_EXAMPLES = 8
FAMILIES = {"language": "llama", "classifier": "bert_classifier"}


def student(task: str) -> torch.nn.Module:
    """The one of a task, narrower than its teachers."""
    return tiny_model(FAMILIES[task], hidden_size=16)


def dataset(task: str) -> object:
    """Sequences with who wrote them, their numbers, and, where every token is predicted, phrases of three tokens."""
    make = {"language": causal_lm_dataset, "classifier": classification_dataset}[task]
    rows = make(NUM_EXAMPLES)
    rows = rows.add_column("source", [index % 2 for index in range(len(rows))])
    rows = rows.add_column("example_id", list(range(len(rows))))
    if task == "classifier":
        return rows
    return rows.add_column("span_ids", [[place // 3 for place in range(len(tokens))] for tokens in rows["input_ids"]])


def train(path: Path) -> DistillationTrainer:
    """Train one student, of the task that the folder is named for, and write down what happened."""
    task, tokenizer = path.parent.name, tiny_tokenizer()
    by_token = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100)
    trainer = DistillationTrainer(
        student(task),
        DistillationArguments(**yaml.safe_load(path.read_text())),
        train_dataset=dataset(task),
        data_collator=by_token if task == "language" else DataCollatorWithPadding(tokenizer),
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.save_model(str(path.with_suffix("")))
    if trainer.is_world_process_zero():
        logs = [entry for entry in trainer.state.log_history if "grad_norm" in entry]
        path.with_suffix(".json").write_text(json.dumps(logs))
    return trainer


def main() -> None:
    """Train with every file in the folders of the folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for path in sorted(options.folder.glob("*/*.yaml")):
        AcceleratorState._reset_state()
        trainer = train(path)
    trainer.end()


if __name__ == "__main__":
    main()
