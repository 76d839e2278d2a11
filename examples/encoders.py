"""Fine-tune an encoder of your language on labelled texts, and distil it into one of half its depth.

    python examples/encoders.py --family gottbert --train tickets.csv --output_dir out    # German
    python examples/encoders.py --family camembert2 --train avis.csv --output_dir out     # French
    python examples/encoders.py --family deberta3 --train reviews.csv --output_dir out    # English; also: deberta
    python examples/encoders.py --family gottbert --model a/folder ...                    # weights of your own

A table (.csv, .tsv, .jsonl, .parquet) has a text and a label a row; a fifth of it is kept for evaluation. Three
stages: the teacher is fine-tuned; half of its blocks, the first and the last among them, learn from it and from the
labels; the same half learns from the labels alone, to be compared. A run that was interrupted goes on when it is
started again. Other options are those of `transformers.TrainingArguments`, for all stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import transformers as hf

from hf_distill import StagesDriver, StagesResult

# The name on the hub, and the class with a head for classes.
FAMILIES = {
    "gottbert": ("uklfr/gottbert-base", "RobertaForSequenceClassification"),
    "camembert2": ("almanach/camembertv2-base", "RobertaForSequenceClassification"),
    "deberta": ("microsoft/deberta-base", "DebertaForSequenceClassification"),
    "deberta3": ("microsoft/deberta-v3-base", "DebertaV2ForSequenceClassification"),
}
DEFAULTS = {
    "learning_rate": 3e-5,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 16,
    "warmup_steps": 0.1,
    "logging_steps": 50,
    "save_strategy": "epoch",
    "save_total_limit": 1,
}


@dataclass
class ScriptArguments:
    """What is trained, and on what."""

    family: str
    train: str
    output_dir: str
    model: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    max_length: int = 256


def recipe(family: str, labelled: dict[str, Any], *, max_length: int = 256) -> list[dict[str, Any]]:
    """The stages, for `StagesDriver` or a file for ``hf-distill stages``."""
    half = {"builder": "layer_drop", "from": {"stage": "teacher"}}
    data = {"task": "labelled", **labelled, "max_length": max_length}
    losses = ["task", {"name": "forward_kl", "temperature": 2.0}, "hidden_mse"]
    return [
        {"name": "teacher", "model_class": FAMILIES[family][1], "losses": ["task"], "data": data},
        {"name": "distilled", "student": half, "teacher": {"stage": "teacher"}, "losses": losses, "data": data},
        {"name": "alone", "student": half, "losses": ["task"], "data": data},
    ]


def run(script: ScriptArguments, defaults: dict[str, Any]) -> StagesResult:
    """Run the stages and print how often each model is right."""
    model = script.model or FAMILIES[script.family][0]
    labelled = {"data_files": script.train, "text_column": script.text_column, "label_column": script.label_column}
    driver = StagesDriver(
        recipe(script.family, labelled, max_length=script.max_length),
        student=model,
        tokenizer=hf.AutoTokenizer.from_pretrained(model),
        output_dir=script.output_dir,
        defaults={**DEFAULTS, **defaults},
        on_stage=lambda record: print(f"{record.name}: accuracy {record.metrics['eval_accuracy']:.3f}"),
    )
    return driver.run()


def main() -> None:
    """Read the command line and run."""
    parser = hf.HfArgumentParser((ScriptArguments,))
    script, rest = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    if script.family not in FAMILIES:
        parser.error(f"there is no family {script.family!r}; there are {', '.join(FAMILIES)}")
    if len(rest) % 2:
        parser.error(f"options come in pairs of --name value, not {' '.join(rest)}")
    run(script, {name.lstrip("-"): value for name, value in zip(rest[::2], rest[1::2], strict=True)})


if __name__ == "__main__":
    main()
