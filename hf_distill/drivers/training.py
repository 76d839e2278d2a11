"""One training as a configuration says: its data, tokenizer and trainer, and the record of what came out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .config_file import RECORD, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase, TrainerCallback

    from ..arguments import DistillationArguments
    from ..data.training_data import TrainingData
    from ..trainer import DistillationTrainer


def run(
    config: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    resume: bool = False,
    title: str = "student",
    console: Console | None = None,
    describe: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
) -> DistillationTrainer:
    """Train what `config` says, evaluate on the test split, and save everything into its ``output_dir``.

    Args:
        config: fields of `DistillationArguments`, and ``data`` and ``tokenizer``.
        overrides: a command line, ``["--max_steps", "10"]``; goes before `config`.
        resume: whether to go on from the newest complete checkpoint.
        title: what the progress bar says.
        console: where progress is shown; standard output by default.
        describe: whether to say what the data is, and where the student was saved.
        callbacks: further callbacks of the trainer.

    Returns:
        The trainer, finished.

    Raises:
        ValueError: something in the configuration is wrong; says what.
    """
    from rich.console import Console
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from ..data.tasks import load_training_data
    from ..drivers.progress import TrainingProgress
    from ..training.checkpoints import last_complete_checkpoint

    arguments, data_spec, tokenizer_name = parse(config, overrides)
    if arguments.student is None:
        raise ValueError("student is missing: a folder or hub name, or {builder: ...} to build one from the teacher.")
    console = console if arguments.should_log and console is not None else Console(quiet=not arguments.should_log)
    with arguments.main_process_first(desc="loading data"):
        tokenizer = tokenizer_for(arguments, tokenizer_name)
        data = load_training_data(data_spec, tokenizer)
    if describe:
        console.print(_describe(data), highlight=False, soft_wrap=True)
    trainer = _trainer(arguments, data, tokenizer)
    progress = TrainingProgress(title, console)
    for brought in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(brought)
    for callback in (progress, *callbacks):
        trainer.add_callback(callback)
    try:
        outcome = trainer.train(resume_from_checkpoint=resume or arguments.resume_from_checkpoint)
    except KeyboardInterrupt:
        if last_complete_checkpoint(str(arguments.output_dir)) is not None:
            console.print(f"what is saved in {arguments.output_dir} goes on with --resume", soft_wrap=True)
        raise
    finally:
        progress.close()
    metrics = dict(outcome.metrics)
    if trainer.eval_dataset is not None:
        metrics |= trainer.evaluate()
        if describe and (data.compute_metrics is not None or trainer.plan.metrics):
            console.print(f"test: {_measured(metrics)}", highlight=False, soft_wrap=True)
    trainer.save_model()
    if trainer.is_world_process_zero():
        _write_record(trainer, config, overrides, metrics)
        if describe:
            console.print(f"saved student, tokenizer and {RECORD} in {arguments.output_dir}", soft_wrap=True)
    trainer.end()  # type: ignore[no-untyped-call]
    return trainer


def _describe(data: TrainingData) -> str:
    """A line about the data."""
    rows, test = data.train, data.evaluation
    tests = list(test.values()) if isinstance(test, dict) else [] if test is None else [test]
    held_out = {"probe": 0 if data.probe is None else len(data.probe), "test": sum(map(len, tests))}
    length = f" of {len(rows[0]['input_ids'])} tokens" if "input_ids" in rows.column_names else ""
    shares = ", ".join(f"{domain} {count / len(rows):.0%}" for domain, count in _domains(rows).items())
    others = "".join(f", {count:,} to {split} with" for split, count in held_out.items() if count)
    return f"data: {len(rows):,} rows{length} to train on{f' ({shares})' if shares else ''}{others}"


def _measured(metrics: Mapping[str, float]) -> str:
    """What `compute_metrics` found, without losses and speed."""
    others = ("_loss", "_runtime", "_per_second")
    named = {k.removeprefix("eval_"): v for k, v in metrics.items() if k.startswith("eval_") and not k.endswith(others)}
    return ", ".join(f"{name} {value:.4g}" for name, value in named.items())


def _domains(rows: Any) -> dict[str, int]:
    """How many rows there are of each domain, where the data tells domains apart."""
    return dict(sorted(Counter(rows["domain"]).items())) if "domain" in rows.column_names else {}


def _trainer(
    arguments: DistillationArguments, data: TrainingData, tokenizer: PreTrainedTokenizerBase
) -> DistillationTrainer:
    """The trainer."""
    from ..trainer import DistillationTrainer

    return DistillationTrainer(
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
        probe_dataset=data.probe,
        data_collator=data.collator,
        compute_metrics=data.compute_metrics,
        processing_class=tokenizer,
    )


def _write_record(
    trainer: DistillationTrainer, config: Mapping[str, Any], overrides: Sequence[str], metrics: Mapping[str, float]
) -> None:
    """What was asked for, with which versions, and what came out, as JSON."""
    import platform

    import accelerate
    import datasets
    import torch
    import transformers

    from .._version import __version__

    modules = {module.__name__: module.__version__ for module in (torch, transformers, accelerate, datasets)}
    record = {
        "config": without_secrets(config),
        "overrides": without_secrets(list(overrides)),
        "versions": {"hf_distill": __version__, "python": platform.python_version(), **modules},
        "plugins": dict(trainer.plan.versions()),
        "processes": trainer.args.world_size,
        "num_parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
        "domains": _domains(trainer.train_dataset),
        "metrics": metrics,
        "log_history": trainer.state.log_history,
    }
    path = Path(str(trainer.args.output_dir)) / RECORD
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def parse(
    config: Mapping[str, Any], overrides: Sequence[str] = ()
) -> tuple[DistillationArguments, dict[str, Any], str | None]:
    """The trainer's arguments, the data's description and the tokenizer's name.

    Raises:
        ValueError: an unknown or missing key, or a value that does not fit.
    """
    from dataclasses import fields

    from transformers import HfArgumentParser

    from ..arguments import DistillationArguments, parse_nested
    from ..plugins.registry import did_you_mean

    class Parser(HfArgumentParser):
        def error(self, message: str) -> Any:  # argparse would print all of the two hundred options, and exit
            raise ValueError(f"on the command line: {message}")

    known = [*(field.name for field in fields(DistillationArguments) if field.init), "data", "tokenizer"]
    for key in config:
        if key not in known:
            raise ValueError(f"the configuration has an unknown key {key!r}{did_you_mean(str(key), known)}.")
    parser = Parser([DistillationArguments], allow_abbrev=False)  # type: ignore[list-item]
    parser.add_argument("--data")
    parser.add_argument("--tokenizer")
    parser.set_defaults(**config)
    arguments, rest, unknown = parser.parse_args_into_dataclasses(
        list(overrides), return_remaining_strings=True, look_for_args_file=False
    )
    if unknown:
        name = unknown[0].removeprefix("--").split("=")[0]
        raise ValueError(f"on the command line: unknown option {unknown[0]!r}{did_you_mean(name, known)}.")
    data = parse_nested(rest.data, "data")
    if not isinstance(data, Mapping):
        raise ValueError(f"data is {data!r}; expected a mapping, such as `data: {{task: causal_lm, texts: python}}`.")
    named = {part.split("=")[0].replace("-", "_") for part in overrides}
    if "output_dir" not in config and "__output_dir" not in named:
        raise ValueError("output_dir is missing: where to save the student.")
    return arguments, dict(data), rest.tokenizer


def tokenizer_for(arguments: DistillationArguments, name: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer that was named, or the teacher's; the student's where its folder has one with other tokens."""
    teacher = arguments.teacher[0] if isinstance(arguments.teacher, list) else arguments.teacher
    if isinstance(teacher, Mapping) and teacher.get("kind") == "cache":
        kept = Path(str(teacher.get("path"))) / "teacher"
        teacher = str(kept) if (kept / "tokenizer_config.json").is_file() else teacher.get("source")
    student = arguments.student if isinstance(arguments.student, str) else None
    source = name or (teacher.get("model") if isinstance(teacher, Mapping) else teacher) or student
    if source is None:
        raise ValueError("There is no teacher or student folder to take the tokenizer from; say tokenizer: path.")
    tokenizer = _load(source)
    if name is None and student is not None and (Path(student) / "tokenizer_config.json").is_file():
        of_student = _load(student)
        tokenizer = tokenizer if of_student.get_vocab() == tokenizer.get_vocab() else of_student
    return tokenizer


def _load(source: Any) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    from ..students.opening import refuse_missing_folder

    refuse_missing_folder(source)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ValueError(f"No tokenizer can be loaded from {source!r}: {error}") from error
    return tokenizer
