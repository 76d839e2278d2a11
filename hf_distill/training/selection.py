"""Selectors at work in a trainer: the loader that follows them, and the probe that they measure models with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from ..batch.signals import IGNORE_INDEX, Batch, Rows, SparseRows, shift_labels
from ..data.loader import IntervalLoader
from ..data.probe import DomainProbe, count_bytes
from ..data.selectors import Selector, read_columns
from ..losses.divergences import cross_entropy
from ..losses.engine import row_values
from ..models.forward import run_in_forward
from ..models.heads import Head, UnsupportedHead
from .context import TrainingContext
from .plan import uses_fsdp
from .step import student_rows


class DataSelection:
    """A selector over one training, with the loader that follows it and the probe that it measures models with.

    Args:
        selector: says what is drawn.

    Attributes:
        loader: made when the trainer asks for its training loader.
    """

    def __init__(self, selector: Selector) -> None:
        self.selector = selector
        self.loader: IntervalLoader | None = None
        self._probe: DomainProbe | None = None
        self._probe_state: Mapping[str, Any] | None = None

    def begin(self, probe: DomainProbe | None, *, resumed: bool) -> None:
        """Start to draw; everything is placed, and a checkpoint, if any, is loaded."""
        self._probe = probe
        if probe is not None and self._probe_state is not None:
            probe.load_state_dict(self._probe_state)
        if not resumed:
            self.selector.start(probe)

    def end_step(self, step: int) -> None:
        """An optimizer step is done, so many in all."""
        if step % self.selector.interval == 0:
            self.selector.update(step, self._probe)

    def state_dict(self, step: int) -> dict[str, Any]:
        """What a run that is resumed after `step` optimizer steps needs to draw the same; JSON can hold it."""
        assert self.loader is not None
        return {
            "selector": self.loader.state_dict(step),
            "probe": None if self._probe is None else self._probe.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, skip_batches: bool) -> None:
        """Go on where `state_dict` was taken."""
        assert self.loader is not None
        self.loader.load_state_dict(state["selector"], skip_batches=skip_batches)
        self._probe_state = state["probe"]

    def close(self) -> None:
        """Stop the loader's work ahead of the step."""
        if self.loader is not None:
            self.loader.close()


def make_interval_loader(
    context: TrainingContext, dataset: Any, *, batch_size: int, make_loader: Callable[[Sampler[int]], DataLoader[Any]]
) -> IntervalLoader:
    """The training loader that draws by the plan's selector.

    Args:
        context: of the training.
        dataset: what is trained on.
        batch_size: examples of a micro-batch on one process.
        make_loader: the trainer's own loader over the indices that a sampler gives.

    Raises:
        ValueError: the training set cannot be drawn from by index, or lacks a column that the selector reads.
    """
    selector, args = context.plan.selector, context.args
    assert selector is not None
    if dataset is None or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        raise ValueError(
            f"A selector draws examples by index, but the training set is {type(dataset).__name__}. "
            "Use a map-style data set (`datasets.load_dataset` without streaming)."
        )
    seed = args.seed if args.data_seed is None else args.data_seed
    columns = read_columns(dataset, selector.columns, what="training set")
    selector.setup(columns, num_examples=len(dataset), seed=seed)

    processes = 1 if context.accelerator.split_batches else context.accelerator.num_processes
    return IntervalLoader(
        make_loader,
        selector,
        num_examples=len(dataset),
        batch_size=batch_size * processes,
        accumulation_steps=args.gradient_accumulation_steps,
        drop_last=args.dataloader_drop_last,
        seed=seed,
    )


def make_probe(context: TrainingContext, dataset: Any, *, used_columns: Any, collator: Any) -> DomainProbe:
    """The probe over a data set.

    Args:
        context: of the training.
        dataset: the trainer's ``probe_dataset``.
        used_columns: the same without the columns that no model and no loss reads.
        collator: the trainer's.

    Raises:
        ValueError: there is no probe set, no vocabulary to predict, or no domain column.
    """
    selector, tokenizer = context.plan.selector, context.tokenizer
    assert selector is not None
    name = type(selector).__name__
    if dataset is None:
        raise ValueError(
            f"The selector {name} measures the models on a probe set; give the trainer probe_dataset=..., examples "
            "that are neither trained nor tested on, with the same domain column."
        )
    column = selector.columns[0]
    domains = read_columns(dataset, [column], what="probe set")[column]
    return DomainProbe(
        used_columns,
        domains=domains,
        forward=_probe_forward(context),
        collate=collator,
        batch_size=context.args.per_device_eval_batch_size,
        accelerator=context.accelerator,
        num_bytes=count_bytes(used_columns, tokenizer=tokenizer) if tokenizer is not None else None,
        fingerprint=f"{getattr(next(iter(context.plan.teachers.values()), None), 'name', '')} {len(domains)}",
    )


def _probe_forward(context: TrainingContext) -> Callable[[str, Any], tuple[Tensor, Tensor]]:
    @torch.no_grad()
    def forward(model: str, inputs: Any) -> tuple[Tensor, Tensor]:
        batch = context.reader.read(context.prepare_inputs(inputs))
        if batch.row_labels is None:
            raise ValueError("The probe set has no labels to predict; the collator must make a `labels` column.")
        if model == "student":
            return _student_cross_entropy(context, batch)
        teacher = next(iter(context.plan.teachers.values()), None)
        if teacher is None:
            raise ValueError("The selector compares the student with a teacher, but none is given. Set teacher=...")
        rows = teacher.signal(batch).rows
        assert rows is not None
        return _by_example(rows, batch, context.plan.memory)

    return forward


def _student_cross_entropy(context: TrainingContext, batch: Batch) -> tuple[Tensor, Tensor]:
    wrapper, module = context.wrapper, context.student
    try:
        head = context.plan.head or (None if uses_fsdp(context.args) else Head.of(module))
    except UnsupportedHead:
        head = None

    def inside(forward: Callable[..., Any]) -> tuple[Tensor, Tensor]:
        rows, _ = student_rows(forward, module, batch.inputs, head)
        return _by_example(rows, batch, context.plan.memory)

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
