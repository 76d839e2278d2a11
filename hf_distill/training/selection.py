"""Selectors at work in a trainer: the loader that follows them, and the probe that they measure models with."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..batch.signals import IGNORE_INDEX, Batch, Rows, SparseRows, shift_labels
from ..data.loader import IntervalLoader
from ..data.probe import DomainProbe, count_bytes
from ..data.selectors import read_columns
from ..losses.divergences import cross_entropy
from ..losses.engine import row_values
from ..models.forward import run_in_forward
from ..models.heads import Head, UnsupportedHead
from .plan import uses_fsdp
from .step import student_rows

if TYPE_CHECKING:
    from ..trainer import DistillationTrainer


def make_interval_loader(trainer: DistillationTrainer) -> IntervalLoader:
    """The training loader that draws by the trainer's selector.

    Raises:
        ValueError: the training set cannot be drawn from by index, or lacks a column that the selector reads.
    """
    selector, dataset, args = trainer.plan.selector, trainer.train_dataset, trainer.args
    assert selector is not None
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"A selector draws examples by index, but the training set is {type(dataset).__name__}. "
            "Use a map-style data set (`datasets.load_dataset` without streaming)."
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    columns = read_columns(dataset, selector.columns, what="training set")
    selector.setup(columns, num_examples=len(dataset), seed=seed)

    def make_loader(sampler: Sampler[int]) -> DataLoader[Any]:
        return trainer._get_dataloader(
            dataset=dataset,
            description="Training",
            batch_size=trainer._train_batch_size,
            sampler_fn=lambda _: sampler,
            is_training=True,
        )

    processes = 1 if trainer.accelerator.split_batches else trainer.accelerator.num_processes
    return IntervalLoader(
        make_loader,
        selector,
        num_examples=len(dataset),
        batch_size=trainer._train_batch_size * processes,
        accumulation_steps=args.gradient_accumulation_steps,
        drop_last=args.dataloader_drop_last,
        seed=seed,
    )


def make_probe(trainer: DistillationTrainer) -> DomainProbe:
    """The probe over `trainer.probe_dataset`.

    Raises:
        ValueError: there is no probe set, no vocabulary to predict, or no domain column.
    """
    selector, dataset = trainer.plan.selector, trainer.probe_dataset
    assert selector is not None
    name = type(selector).__name__
    if dataset is None:
        raise ValueError(
            f"The selector {name} measures the models on a probe set; give the trainer probe_dataset=..., examples "
            "that are neither trained nor tested on, with the same domain column."
        )
    column = selector.columns[0]
    domains = read_columns(dataset, [column], what="probe set")[column]
    own = trainer._remove_unused_columns(dataset, description="probe") if isinstance(dataset, Dataset) else dataset
    tokenizer = trainer.processing_class
    return DomainProbe(
        own,
        domains=domains,
        forward=_probe_forward(trainer),
        collate=trainer.data_collator,
        batch_size=trainer.args.per_device_eval_batch_size,
        accelerator=trainer.accelerator,
        num_bytes=count_bytes(own, tokenizer=tokenizer) if tokenizer is not None else None,
        fingerprint=f"{getattr(next(iter(trainer.plan.teachers.values()), None), 'name', '')} {len(domains)}",
    )


def _probe_forward(trainer: DistillationTrainer) -> Callable[[str, Any], tuple[Tensor, Tensor]]:
    reader = trainer.batch_reader

    @torch.no_grad()
    def forward(model: str, inputs: Any) -> tuple[Tensor, Tensor]:
        batch = reader.read(trainer._prepare_inputs(inputs))
        if batch.row_labels is None:
            raise ValueError("The probe set has no labels to predict; the collator must make a `labels` column.")
        if model == "student":
            return _student_cross_entropy(trainer, batch)
        teacher = next(iter(trainer.plan.teachers.values()), None)
        if teacher is None:
            raise ValueError("The selector compares the student with a teacher, but none is given. Set teacher=...")
        rows = teacher.signal(batch).rows
        assert rows is not None
        return _by_example(rows, batch, trainer.plan.memory)

    return forward


def _student_cross_entropy(trainer: DistillationTrainer, batch: Batch) -> tuple[Tensor, Tensor]:
    wrapper, module = trainer.model_wrapped, trainer.student
    try:
        head = trainer.plan.head or (None if uses_fsdp(trainer.args) else Head.of(module))
    except UnsupportedHead:
        head = None

    def inside(forward: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        rows, _ = student_rows(forward, module, batch.inputs, head)
        return _by_example(rows, batch, trainer.plan.memory)

    training = wrapper.training
    wrapper.eval()
    try:
        return run_in_forward(wrapper, module, inside)  # type: ignore[no-any-return]
    finally:
        wrapper.train(training)


def _by_example(rows: Rows | SparseRows, batch: Batch, memory: int) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy and number of targets of each example, both ``[B]``."""
    assert batch.row_labels is not None
    mask = batch.row_labels != IGNORE_INDEX
    values = torch.zeros(mask.shape, dtype=torch.float64, device=mask.device)
    labels = batch.row_labels[mask]
    if isinstance(rows, Rows):
        values[mask] = row_values(rows.select(mask), None, [cross_entropy], labels=labels, memory=memory)[0].double()
    else:
        values[mask] = -_stored_log_probs(rows, batch).double()[mask]
    return values.reshape(len(mask), -1).sum(1), mask.reshape(len(mask), -1).sum(1)


def _stored_log_probs(rows: SparseRows, batch: Batch) -> Tensor:
    """The labels' log-probabilities from a cache, ``[B, S]``: exact where the label is the input's next token."""
    assert batch.row_labels is not None
    looked_up = rows.log_probs_of(batch.row_labels)
    inputs = batch.inputs.get("input_ids")
    if rows.next_log_probs is None or inputs is None:
        return looked_up
    return torch.where(shift_labels(inputs) == batch.row_labels, rows.next_log_probs, looked_up)
