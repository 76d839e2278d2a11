"""Classifying texts, as a task to be learned in rounds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)

from ..arguments import DistillationArguments
from ..plugins.manager import Plugins
from ..plugins.registry import did_you_mean
from ..students import build_student, load_student
from ..trainer import DistillationTrainer
from .class_report import ClassReport, class_report
from .fresh_classifier import fresh_classifier
from .generators import Predictions, Row
from .tasks import RoundTask

# Fields of the arguments that the driver decides itself.
_OWN_FIELDS = ("output_dir", "seed", "eval_strategy", "save_strategy", "load_best_model_at_end")


class TextClassification(RoundTask):
    """A classifier of texts, trained by `DistillationTrainer`.

    Args:
        student: a folder or hub name; ``{"model": ..., "builder": ..., ...}`` for one that `build_student` makes of it;
            or ``{"fresh": {...}}`` for a small BERT with a vocabulary of its own (`fresh_classifier`).
        labels: the taxonomy.
        validation: labelled rows for early stopping within a round.
        training: fields of `DistillationArguments`, teacher and losses for classifiers among them. By default what
            the PGKD paper fits BERT-base with: 30 epochs, batches of 64, a learning rate of 2e-5.
        round_training: fields that differ in the rounds after the first: ``{"num_train_epochs": 1}`` is what a
            third-party implementation of PGKD does, where the paper trains to convergence in every round.
        early_stopping: how many epochs without a lower validation loss end a round's training, which then gives its
            best epoch; None trains all epochs and gives the last.
        max_length: tokens of a text; what is longer is cut.
        seed: of the weights that are new.
        plugins: names of plugins that `training` uses.
        callbacks: makes further callbacks for a training from its title.

    Raises:
        ValueError: fewer than two labels, labels that repeat, or a field that the driver decides.
    """

    def __init__(
        self,
        student: str | os.PathLike[str] | Mapping[str, Any],
        *,
        labels: Sequence[str],
        validation: Sequence[Row],
        training: Mapping[str, Any] | None = None,
        round_training: Mapping[str, Any] | None = None,
        early_stopping: int | None = 5,
        max_length: int = 512,
        seed: int = 0,
        plugins: Sequence[str] = (),
        callbacks: Callable[[str], Sequence[TrainerCallback]] | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self.student = dict(student) if isinstance(student, Mapping) else {"model": os.fspath(student)}
        self.validation = validation
        self.early_stopping = early_stopping
        self.max_length = max_length
        self.seed = seed
        self.plugins = list(plugins)
        self.callbacks = callbacks
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise ValueError(f"labels is {list(self.labels)}; expected at least two names, each once.")
        known = [field.name for field in fields(DistillationArguments) if field.init]
        for name in (*(training or {}), *(round_training or {})):
            if name in _OWN_FIELDS:
                raise ValueError(f"training sets {name}, which the rounds decide; leave it out.")
            if name not in known:
                raise ValueError(f"training has no field {name!r}{did_you_mean(name, known)}.")
        self.training: dict[str, Any] = {
            "num_train_epochs": 30,
            "per_device_train_batch_size": 64,
            "per_device_eval_batch_size": 64,
            "learning_rate": 2e-5,
            "report_to": "none",
            "dataloader_pin_memory": torch.cuda.is_available(),
            **(training or {}),
        }
        self.round_training = dict(round_training or {})
        # Now, since this also starts the process group that the rounds talk over.
        self.device = self._arguments(Path("."), seed, first=True).device

    def settings(self) -> dict[str, Any]:
        """What decides the students, as JSON."""
        names = ("student", "training", "round_training", "early_stopping", "max_length", "seed")
        return {name: getattr(self, name) for name in names}

    def create(self, folder: Path, rows: Sequence[Row]) -> None:
        """Save the student as it is before any training.

        Raises:
            ValueError: options that do not make a student.
        """
        tokenizer: PreTrainedTokenizerBase
        names: dict[str, Any] = {
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }
        options = dict(self.student)
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model: PreTrainedModel
            if "fresh" in options:
                model, tokenizer = fresh_classifier([row["text"] for row in rows], **(options["fresh"] or {}), **names)
            elif "model" in options:
                source, builder = options.pop("model"), options.pop("builder", None)
                tokenizer = AutoTokenizer.from_pretrained(source)
                # Its checkpoint may be an encoder's: the class is looked up by the kind of model, not by its name.
                auto: Any = AutoModelForSequenceClassification
                # One that was trained on other classes gets a new head.
                model = load_student(source, model_class=auto, ignore_mismatched_sizes=True, **names)
                if builder is not None:
                    model = build_student(model, builder, plugins=self._active(), **options).model
            else:
                raise ValueError(f"student is {self.student}; expected a folder, {{model: ...}} or {{fresh: ...}}.")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    def fit(self, start: Path, rows: Sequence[Row], folder: Path, *, seed: int, title: str, first: bool) -> None:
        """Train the student of `start` on `rows`; collective."""
        model, tokenizer = self._load(start)
        scratch = folder.with_name(f"{folder.name}.training")
        trainer = DistillationTrainer(
            model=model,
            args=self._arguments(scratch, seed, first=first),
            train_dataset=self._encode(rows, tokenizer),
            eval_dataset=self._encode(self.validation, tokenizer),
            data_collator=DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[*(self.callbacks(title) if self.callbacks else ())],
        )
        if self.early_stopping is not None:
            trainer.add_callback(EarlyStoppingCallback(self.early_stopping))
        if trainer.args.disable_tqdm:
            trainer.remove_callback(PrinterCallback)
        trainer.train()
        partial = folder.with_name(f"{folder.name}.partial")
        if trainer.is_world_process_zero():
            shutil.rmtree(partial, ignore_errors=True)
        trainer.accelerator.wait_for_everyone()
        trainer.save_model(str(partial))
        trainer.accelerator.wait_for_everyone()
        if trainer.is_world_process_zero():
            shutil.rmtree(scratch, ignore_errors=True)
            (partial / "training_args.bin").unlink(missing_ok=True)  # pickled, and of this training alone
            os.replace(partial, folder)
        trainer.accelerator.free_memory()

    def open(self, folder: Path) -> Classifier:
        """The student of a folder, for predictions."""
        model, tokenizer = self._load(folder)
        model.to(self.device)  # type: ignore[arg-type]
        return Classifier(model, tokenizer, labels=self.labels, max_length=self.max_length)

    def _load(self, folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        model = load_student(folder, plugins=self._active(), dtype=torch.float32)
        return model, AutoTokenizer.from_pretrained(folder)

    def _active(self) -> Plugins:
        """The plugins that are named, and whoever has the builder that is."""
        plugins = Plugins(self.plugins)
        if (builder := self.student.get("builder")) is not None:
            plugins.students.get(builder)
        return plugins

    def _arguments(self, output_dir: Path, seed: int, *, first: bool) -> DistillationArguments:
        stops_early = self.early_stopping is not None
        own = {} if first else self.round_training
        return DistillationArguments(
            output_dir=str(output_dir),
            seed=seed,
            eval_strategy="epoch" if stops_early else "no",
            save_strategy="best" if stops_early else "no",
            load_best_model_at_end=stops_early,
            plugins=self.plugins,
            **{"save_total_limit": 1, "save_only_model": True, **self.training, **own},
        )

    def _encode(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> Dataset:
        columns = tokenizer([row["text"] for row in rows], truncation=True, max_length=self.max_length, verbose=False)
        index = {label: position for position, label in enumerate(self.labels)}
        return Dataset.from_dict({**columns, "labels": [index[row["label"]] for row in rows]})


class Classifier:
    """A trained classifier with its tokenizer.

    Args:
        model: of sequence classification, in float32.
        tokenizer: its own.
        labels: the names of its classes.
        max_length: tokens of a text.
        batch_size: texts that it sees at once.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        labels: Sequence[str],
        max_length: int = 512,
        batch_size: int = 64,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.labels = tuple(labels)
        self.max_length = max_length
        self.batch_size = batch_size

    @torch.no_grad()
    def log_probabilities(self, texts: Sequence[str]) -> Tensor:
        """Log-probabilities of the classes, ``[n, V]`` float32, on the CPU."""
        order = sorted(range(len(texts)), key=lambda position: len(texts[position]))  # texts of a batch alike in length
        found = torch.empty(len(texts), len(self.labels))
        for start in range(0, len(order), self.batch_size):
            chosen = order[start : start + self.batch_size]
            batch = self.tokenizer(
                [texts[position] for position in chosen],
                truncation=True,
                max_length=self.max_length,
                padding=True,
                return_tensors="pt",
            ).to(self.model.device)
            found[chosen] = self.model(**batch).logits.float().log_softmax(-1).cpu()
        return found

    def predict(self, rows: Sequence[Row]) -> Predictions:
        """The most probable class of each row's text, and its probability."""
        if not rows:
            return Predictions()
        confidences, classes = self.log_probabilities([row["text"] for row in rows]).exp().max(-1)
        return Predictions(rows, [self.labels[index] for index in classes.tolist()], confidences.tolist())

    def report(self, rows: Sequence[Row]) -> ClassReport:
        """Cross-entropy, accuracy and the scores of every class on labelled rows."""
        found = self.log_probabilities([row["text"] for row in rows])
        true = [row["label"] for row in rows]
        index = {label: position for position, label in enumerate(self.labels)}
        loss = torch.nn.functional.nll_loss(found.double(), torch.tensor([index[label] for label in true])).item()
        predicted = [self.labels[position] for position in found.argmax(-1).tolist()]
        return class_report(true, predicted, self.labels, loss=loss)
