"""``hf-distill capture CONFIG.yaml``: fill a teacher cache from the data of a training, before that training.

The file is that of the training (``hf-distill train``), where the teacher is a cache with a source:

    teacher: {kind: cache, path: cache/my-teacher, source: path/to/teacher, k: 32}
    data: {texts: python, max_length: 128}
"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..drivers.config_file import read_config
from ..drivers.training import parse, tokenizer_for

if TYPE_CHECKING:
    from datasets import Dataset
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from ..batch.views import TeacherView
    from ..data.training_data import TrainingData
    from ..teachers.base import Teacher
    from ..training.specs import ActiveLoss
    from .capture import CaptureEstimate, CaptureProgress
    from .teacher import CacheTeacher

_SPLITS = ("train", "probe", "test")


def capture(argv: list[str]) -> int:
    """Run ``hf-distill capture`` and return the exit status; 130 where it was interrupted, and can go on."""
    parser = argparse.ArgumentParser(
        prog="hf-distill capture",
        description="Ask the teacher about all data of a training once, and keep the answers.",
        epilog="Any other --name value replaces what the file says; nested values are JSON.",
        allow_abbrev=False,
    )
    parser.add_argument("config", help="the YAML file of a training whose teacher is a cache with a source")
    parser.add_argument("--dry-run", action="store_true", help="say what it would take, in bytes and time")
    parser.add_argument("--splits", default=",".join(_SPLITS), help="of the data; default: %(default)s")
    options, overrides = parser.parse_known_args(argv)
    splits = options.splits.split(",")
    if unknown := [name for name in splits if name not in _SPLITS]:
        raise ValueError(f"--splits has {', '.join(unknown)}; expected some of {','.join(_SPLITS)}.")
    arguments, data_spec, tokenizer_name = parse(read_config(options.config), overrides)
    from accelerate import Accelerator
    from rich.console import Console
    from transformers import default_data_collator

    from ..data.tasks import load_training_data, parse_task
    from ..plugins.manager import Plugins
    from ..training.specs import make_losses, make_teachers
    from . import capture as driver

    if parse_task(data_spec)[0] == "masked_lm":
        raise ValueError(
            "The data is of the task masked_lm, which masks other tokens in every epoch, so that no answer would be "
            "found again. Train on the live teacher."
        )
    console = Console(quiet=not arguments.should_log)
    plugins = Plugins.of(arguments.plugins)
    teachers = make_teachers(arguments.teacher, plugins)
    name, teacher = _teacher(teachers, arguments.teacher)
    with arguments.main_process_first(desc="loading data"):
        tokenizer = tokenizer_for(arguments, tokenizer_name)
        data = load_training_data(data_spec, tokenizer, by_domain=False)
    views = _views(make_losses(arguments.losses or (), teachers, plugins), name, teacher, tokenizer)
    rows = _rows(data, splits)
    common: dict[str, Any] = {
        "collator": data.collator or default_data_collator,
        "batch_size": arguments.per_device_eval_batch_size,
        "accelerator": Accelerator(),  # on the device that the arguments have set up
    }
    for view in views:
        common["view"] = view
        if options.dry_run:
            _print_estimate(driver.estimate(teacher, rows, **common), teacher, console)
        elif status := _run(teacher, rows, common, console, again=shlex.join(["hf-distill", "capture", *argv])):
            return status
    return 0


def _rows(data: TrainingData, splits: Sequence[str]) -> Dataset:
    """All examples of these splits, in one data set."""
    from datasets import Dataset, concatenate_datasets

    named = {"train": data.train, "probe": data.probe, "test": data.evaluation}
    found = [named[split] for split in splits if named[split] is not None]
    if not all(isinstance(rows, Dataset) and "input_ids" in rows.column_names for rows in found):
        raise ValueError(
            "This command asks about data sets of tokens, which this data is not (nor are rankings and images). The "
            "first training fills the cache; before any, `hf_distill.capture` does, from Python."
        )
    return concatenate_datasets(found)


def _teacher(teachers: Mapping[str, Teacher], spec: Any) -> tuple[str, CacheTeacher]:
    from .teacher import CacheTeacher

    found = [(name, teacher) for name, teacher in teachers.items() if isinstance(teacher, CacheTeacher)]
    if len(found) != 1 or not found[0][1].has_source:
        raise ValueError(
            f"teacher is {spec!r}; expected a cache to fill and its source: "
            "`teacher: {kind: cache, path: cache/my-teacher, source: path/to/teacher}`."
        )
    return found[0]


def _views(
    losses: Sequence[ActiveLoss], name: str, teacher: CacheTeacher, tokenizer: PreTrainedTokenizerBase
) -> list[TeacherView | None]:
    """How the losses will show batches to the teacher; None for the student's own, which must be in its tokens."""
    from ..losses.mixins import TeacherViewMixin

    views: dict[TeacherView | None, None] = {}
    for loss in losses:
        if name in loss.teachers:
            view = None
            if isinstance(loss.function, TeacherViewMixin):
                view = loss.function.make_teacher_view(tokenizer, teacher.tokenizer, teacher=name)
            views[view] = None
    if None in views or not views:
        teacher.check_tokenizer(tokenizer)
    return list(views) or [None]


def _run(teacher: CacheTeacher, rows: Dataset, common: dict[str, Any], console: Console, *, again: str) -> int:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from .capture import capture as run

    columns = (TextColumn("capture"), BarColumn(), TextColumn("{task.fields[figures]}"), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None, figures="")

        def watch(now: CaptureProgress) -> None:
            rate = now.tokens / max(now.seconds, 1e-9)
            figures = f"{now.examples:,} new examples, {rate:,.0f} tokens/s"
            progress.update(task, total=now.num_batches, completed=now.batches, figures=figures)

        start = time.monotonic()
        try:
            new = run(teacher, rows, watch=watch, **common)
        except KeyboardInterrupt:
            progress.stop()
            console.print(f"interrupted; {len_of(teacher):,} examples are kept in {teacher.path}")
            console.print(f"go on with: {again}", soft_wrap=True, highlight=False)
            return 130
    console.print(f"asked about {new:,} examples in {_duration(time.monotonic() - start)}", highlight=False)
    console.print(describe(teacher), highlight=False, soft_wrap=True)
    return 0


def len_of(teacher: CacheTeacher) -> int:
    """How many examples its cache holds."""
    return len(teacher.store or ())


def describe(teacher: CacheTeacher) -> str:
    """Size of a cache, in one line."""
    store = teacher.store
    if store is None:
        return f"{teacher.path}: empty"
    each = f", {store.num_bytes / store.num_tokens:.1f} bytes a token" if store.num_tokens else ""
    return (
        f"{teacher.path}: {len(store):,} examples, {store.num_tokens:,} tokens, {store.num_bytes / 1e6:,.1f} MB{each}"
    )


def _print_estimate(found: CaptureEstimate, teacher: CacheTeacher, console: Console) -> None:
    console.print(
        f"{found.examples:,} examples of {found.tokens:,} tokens; {found.missing:,} are not in {teacher.path} yet\n"
        f"they would take about {found.num_bytes / 1e6:,.1f} MB and {_duration(found.seconds)} here",
        highlight=False,
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
