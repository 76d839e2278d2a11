"""A small text classifier from ten labels a class, and one from a teacher and texts that have no labels.

    python examples/few_labels.py                                             # docstrings, by module; about a minute
    python examples/few_labels.py --train banking77/train.csv --test banking77/test.csv --label_column category
    python examples/few_labels.py --train train.csv --test test.csv --teacher_folder path/of/classifier

Tables (.csv, .tsv, .jsonl, .parquet, also with .gz) have a text and a label a row. Without a folder the teacher is made
here, from all labels; a folder's classes must be those of the table in order of name. Losses and all other options are
in few_labels.yaml, and may be given on the command line.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers as hf
import yaml
from datasets import Dataset

from hf_distill import DistillationArguments, DistillationTrainer, fresh_classifier, load_labelled_texts


@dataclass
class ScriptArguments:
    """Where the data and the teacher are."""

    train: str | None = None
    test: str | None = None
    text_column: str = "text"
    label_column: str = "label"
    teacher_folder: str | None = None
    per_class: int = 10


def main() -> None:
    """Train a teacher, a student from few labels and one from the teacher; print how often they are right."""
    parser = hf.HfArgumentParser((ScriptArguments, DistillationArguments))
    parser.set_defaults(**yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text()))
    script, args = parser.parse_args_into_dataclasses()
    if (script.train is None) != (script.test is None):
        parser.error("give --train and --test together, or neither for the docstrings of Python's modules.")
    spec: dict[str, Any] = {"texts": "docstrings", "validation_fraction": 0.3}
    if script.train is not None:
        spec = {"data_files": {"train": script.train, "test": script.test}, "validation_split": "test"}
        spec |= {"text_column": script.text_column, "label_column": script.label_column}
    data = load_labelled_texts(spec)
    names = dict(enumerate(data.labels))

    texts = [row["text"] for row in data.train]
    hf.set_seed(args.seed)
    shape = {"vocab_size": 2000, "max_length": 128, "id2label": names}
    student, tokenizer = fresh_classifier(texts, hidden_size=48, layers=1, initializer_range=0.1, **shape)
    if script.teacher_folder:
        teacher = hf.AutoModelForSequenceClassification.from_pretrained(script.teacher_folder)
        tokenizer = hf.AutoTokenizer.from_pretrained(script.teacher_folder)
        student.resize_token_embeddings(len(tokenizer))
    else:
        teacher, _ = fresh_classifier(texts, hidden_size=96, layers=2, **shape)

    def rows(split: list[dict[str, str]], most: int | None = None) -> Dataset:
        """Tokens and classes of some texts, at most so many of each class."""
        kept = [[row for row in split if row["label"] == name][:most] for name in data.labels]
        chosen = [row for own in kept for row in own]
        labels = [label for label, own in enumerate(kept) for _ in own]
        return Dataset.from_dict({**tokenizer([r["text"] for r in chosen], truncation=True), "labels": labels})

    few, every, test = rows(data.train, script.per_class), rows(data.train), rows(data.validation)
    print(f"{len(few)} labelled texts of {len(names)} classes; {len(every)} texts for the teacher", flush=True)

    def train(model: hf.PreTrainedModel, dataset: Dataset, **options: Any) -> float:
        """Train `model` in place and give the share of the test that it gets right."""
        trainer = DistillationTrainer(
            model,
            args,
            train_dataset=dataset,
            eval_dataset=test,
            data_collator=hf.DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            compute_metrics=lambda said: {"accuracy": float((said.predictions.argmax(-1) == said.label_ids).mean())},
            **options,
        )
        trainer.train()
        trainer.save_model()  # the last one stays: the student of the teacher
        return trainer.evaluate()["eval_accuracy"]

    if not script.teacher_folder:
        print(f"teacher, all labels: {train(teacher, every, losses=['task']):.3f}", flush=True)
    print(f"student, few labels: {train(copy.deepcopy(student), few, losses=['task']):.3f}", flush=True)
    unlabelled = every.remove_columns("labels")
    print(f"student, the teacher and no labels: {train(student, unlabelled, teacher=teacher):.3f}")


if __name__ == "__main__":
    main()
