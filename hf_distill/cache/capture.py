"""Capture: ask a teacher about a whole data set, through the pipeline of a training, and keep the answers.

    teacher = CacheTeacher("cache/my-teacher", source="path/to/teacher", k=32)
    capture(teacher, data["train"], collator=default_data_collator, batch_size=8)

Works on one process and on many, the source sharded where DeepSpeed shards it. What is there is not asked again, so
that a capture that was stopped goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from datasets import Dataset
from torch.utils.data import DataLoader

from ..batch.reader import BatchReader
from ..batch.signals import Batch
from ..batch.views import CollateViews, TeacherView
from ..models.forward import accepted_inputs
from ..training.distributed import end_processes_in_order, sum_over_processes
from .teacher import CacheTeacher

_SAMPLE = 10_000

Collator = Callable[[list[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class CaptureProgress:
    """Where a capture stands, on this process.

    Attributes:
        batches, num_batches: done, and in all.
        examples: asked and kept.
        tokens: of the batches done.
        seconds: since it began.
    """

    batches: int
    num_batches: int
    examples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class CaptureEstimate:
    """What a capture would take, from a few batches of it on this process.

    Attributes:
        examples, missing: in the data set, and of these not in the cache.
        tokens: of all examples.
        num_bytes: of those that are missing.
        seconds: to ask about those that are missing, on as many processes as these.
    """

    examples: int
    missing: int
    tokens: int
    num_bytes: float
    seconds: float


def capture(
    teacher: CacheTeacher,
    dataset: Dataset,
    *,
    collator: Collator,
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
    view: TeacherView | None = None,
    watch: Callable[[CaptureProgress], None] = lambda progress: None,
) -> int:
    """Keep what the teacher's source says of every example of `dataset`; the number of new ones over all processes.

    Args:
        teacher: a cache with a source.
        dataset: what will be trained on, tokenised as it will be then.
        collator: the training's; may pad, but must not change tokens by chance.
        batch_size: examples at a time on each process.
        accelerator: of the run; one of its own by default.
        view: how the teacher sees a batch, for losses that show it something else than the student's
            (`TeacherViewMixin.make_teacher_view`).
        watch: told after every batch.

    Raises:
        OSError: the disk is full; what was finished is kept.
    """
    accelerator = accelerator or Accelerator()
    end_processes_in_order()
    teacher.prepare(accelerator)
    loader = _loader(teacher, dataset, collator, batch_size, accelerator, view)
    start, examples, tokens = time.monotonic(), 0, 0
    try:
        for index, batch in enumerate(_batches(teacher, loader, view), start=1):
            examples += teacher.fill(batch)
            tokens += int(batch.token_mask.sum())
            watch(CaptureProgress(index, len(loader), examples, tokens, time.monotonic() - start))
    finally:
        teacher.close()
    accelerator.wait_for_everyone()
    if teacher.store is not None:
        teacher.store.refresh()  # what the other processes wrote at their end
    return int(sum_over_processes(torch.tensor(examples, device=accelerator.device)).item())


def estimate(
    teacher: CacheTeacher,
    dataset: Dataset,
    *,
    collator: Collator,
    batch_size: int = 8,
    accelerator: Accelerator | None = None,
    view: TeacherView | None = None,
    num_batches: int = 4,
) -> CaptureEstimate:
    """Ask about a few batches, keep nothing, and say what all of it would take.

    Args:
        teacher: a cache with a source.
        dataset: as for `capture`.
        collator: as for `capture`.
        batch_size: as for `capture`.
        accelerator: as for `capture`.
        view: as for `capture`.
        num_batches: how many to ask about, after one that only warms up.
    """
    accelerator = accelerator or Accelerator()
    teacher.prepare(accelerator)
    loader = _loader(teacher, dataset, collator, batch_size, accelerator, view)
    examples = missing = tokens = 0
    for batch in _batches(teacher, loader, view):
        examples += len(batch.token_mask)
        missing += teacher.missing(batch)
        tokens += int(batch.token_mask.sum())
    tried = num_bytes = 0
    start = time.monotonic()
    for index, batch in enumerate(islice(_batches(teacher, loader, view), num_batches + 1)):
        size = teacher.num_bytes_of(batch)
        if index == 0 and len(loader) > 1:
            start = time.monotonic()
            continue
        tried, num_bytes = tried + len(batch.token_mask), num_bytes + size
    share = missing / max(tried, 1)
    total = torch.tensor([examples, missing, tokens, num_bytes * share], dtype=torch.float64, device=accelerator.device)
    examples, missing, tokens, all_bytes = sum_over_processes(total).tolist()
    return CaptureEstimate(int(examples), int(missing), int(tokens), all_bytes, (time.monotonic() - start) * share)


def _loader(
    teacher: CacheTeacher,
    dataset: Dataset,
    collator: Collator,
    batch_size: int,
    accelerator: Accelerator,
    view: TeacherView | None,
) -> DataLoader[Any]:
    names = dataset.column_names
    if view is not None:
        collator = CollateViews(collator, [view])
    elif "input_ids" in names and len(dataset):
        teacher.order_by(dataset[: min(len(dataset), _SAMPLE)]["input_ids"])
    if teacher.model is not None:
        taken = accepted_inputs(teacher.model, dict.fromkeys([*names, "labels"]))
        dataset = dataset.select_columns([name for name in names if name in taken or name in ("labels", "label")])
    loader: DataLoader[Any] = DataLoader(dataset, batch_size=batch_size, collate_fn=collator)
    prepared: DataLoader[Any] = accelerator.prepare_data_loader(loader)
    return prepared


def _batches(teacher: CacheTeacher, loader: DataLoader[Any], view: TeacherView | None) -> Iterator[Batch]:
    columns = () if view is None else view.columns
    reader = BatchReader(teacher.model, shifted=True, extra_columns=columns) if teacher.model is not None else None
    for inputs in loader:
        if reader is None:
            raise ValueError("The cache's source is no model of transformers; it can only be filled by training.")
        batch = reader.read(inputs)
        yield batch if view is None else view.batch(batch)
