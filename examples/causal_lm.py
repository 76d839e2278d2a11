"""Distil a language model on your text, on one process or on many.

    python examples/causal_lm.py --teacher path/or/name --output_dir out
    accelerate launch --config_file examples/configs/ddp_8gpu.yaml examples/causal_lm.py \
        --teacher path/or/name --dataset my_texts.jsonl --output_dir out --learning_rate 1e-4

All that `DistillationArguments` knows, and so `transformers.TrainingArguments`, can be given on the command line;
losses for instance as --losses '[{"name": "task"}, {"name": "jsd", "beta": 0.3, "temperature": 2}]'.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from transformers import AutoTokenizer, HfArgumentParser

from hf_distill import DistillationArguments, DistillationTrainer, load_training_data


@dataclass
class ScriptArguments:
    """What to train on."""

    dataset: str = field(
        default="python",
        metadata={
            "help": "A text file (.jsonl, .csv, .txt, .parquet), a data set's name, or \"python\": Python's own."
        },
    )
    text_column: str = field(default="text", metadata={"help": "The column with the text."})
    domain_column: str | None = field(default=None, metadata={"help": "The column with the text's domain, if any."})
    max_length: int = field(default=512, metadata={"help": "Tokens of an example."})


def main() -> None:
    """Train, evaluate and save."""
    parser = HfArgumentParser((ScriptArguments, DistillationArguments))
    script, args = parser.parse_args_into_dataclasses()
    if args.teacher is None:
        parser.error("--teacher is missing: a folder or hub name, or JSON with options")
    args.student = args.student or {"builder": "layer_drop"}  # by default every other layer of the teacher

    teacher = args.teacher["model"] if isinstance(args.teacher, dict) else args.teacher
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    if script.dataset == "python":
        source = {"texts": "python"}
    elif Path(script.dataset).is_file():
        source = {"data_files": script.dataset}
    else:
        source = {"path": script.dataset}
    if script.dataset != "python":
        source |= {"text_column": script.text_column, "domain_column": script.domain_column}
    with args.main_process_first(desc="loading text"):
        data = load_training_data({**source, "max_length": script.max_length}, tokenizer, by_domain=False)

    trainer = DistillationTrainer(
        args=args,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        probe_dataset=data.probe,
        data_collator=data.collator,
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint)
    trainer.log_metrics("eval", trainer.evaluate())
    trainer.save_model()
    trainer.end()


if __name__ == "__main__":
    main()
