"""Evaluates ten examples, then two, in batches of three, and writes what was measured; on one process or two."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from transformers import DataCollatorWithPadding, TrainingArguments

from hf_distill import DistillationTrainer
from hf_distill.testing import classification_dataset, tiny_model, tiny_tokenizer

METRICS = ["accuracy", "f1", "calibration", "perplexity", "teacher_agreement", "probability_loyalty"]


def main() -> None:
    """Evaluate."""
    trainer = DistillationTrainer(
        tiny_model("bert_classifier"),
        TrainingArguments(sys.argv[1], report_to="none", use_cpu=True, per_device_eval_batch_size=3, disable_tqdm=True),
        teacher=tiny_model("bert_classifier", seed=1),
        metrics=METRICS,
        eval_dataset=classification_dataset(10),
        data_collator=DataCollatorWithPadding(tiny_tokenizer()),
    )
    found = trainer.evaluate()
    # So few that one of two processes has none.
    found |= trainer.evaluate(classification_dataset(2), metric_key_prefix="few")
    if trainer.is_world_process_zero():
        Path(sys.argv[1], "metrics.json").write_text(json.dumps(found))
    trainer.end()


if __name__ == "__main__":
    main()
