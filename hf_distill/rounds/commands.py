"""``hf-distill rounds CONFIG.yaml``: from labelled texts to a small classifier, in rounds of training and asking.

    output_dir: outputs/tickets
    data: {task: labelled, data_files: tickets.csv}  # as in every command, see docs/data.md
    student: path/or/name                           # or {fresh: {hidden_size: 64}}, or {model: ..., builder: ...}
    generator: {name: pgkd}
    teacher: {kind: endpoint, url: http://127.0.0.1:8000/v1, model: name}
    budget: {requests: 20}
    training: {num_train_epochs: 30}                # fields of `DistillationArguments`

Beside these there may be ``round_training``, ``early_stopping``, ``checks``, ``num_rounds``,
``patience``, ``num_folds`` and ``seed``. A run that was killed or ran out of budget goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..drivers.config_file import RECORD, read_config, without_secrets
from ..plugins.registry import did_you_mean

if TYPE_CHECKING:
    from rich.console import Console

    from ..data.labelled_texts import LabelledTexts
    from .class_report import ClassReport
    from .driver import RoundsDriver, RoundsResult

_CHARACTERS_PER_TOKEN = 4  # of English, in the usual vocabularies


@dataclass(frozen=True, kw_only=True)
class RoundsConfig:
    """What the file may say; see `RoundsDriver` and `TextClassification` for what is not said here.

    Attributes:
        output_dir: where everything goes; the best student is in ``model`` there.
        data: where the labelled texts come from.
        student: what is trained.
        generator: who proposes rows, ``{name, ...options}`` or a name.
        teacher: whom the generator asks.
    """

    output_dir: str
    data: Mapping[str, Any]
    student: str | Mapping[str, Any]
    generator: str | Mapping[str, Any]
    teacher: str | Mapping[str, Any] | None = None
    plugins: list[str] = field(default_factory=list)
    training: Mapping[str, Any] = field(default_factory=dict)
    round_training: Mapping[str, Any] = field(default_factory=dict)
    early_stopping: int | None = 5
    budget: Mapping[str, Any] | None = None
    checks: Mapping[str, Any] | None = None
    num_rounds: int = 10
    patience: int = 5
    num_folds: int = 5
    seed: int = 0

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> RoundsConfig:
        """Check the keys.

        Raises:
            ValueError: an unknown key, or one that is missing.
        """
        known = [field.name for field in fields(cls)]
        for key in config:
            if key not in known:
                raise ValueError(f"the configuration has an unknown key {key!r}{did_you_mean(str(key), known)}.")
        for key in ("output_dir", "data", "student", "generator"):
            if key not in config:
                raise ValueError(f"the configuration has no {key}; `hf-distill rounds --help` shows what it needs.")
        return cls(**config)


def rounds(argv: list[str]) -> int:
    """Run ``hf-distill rounds`` and return the exit status: 1 where budget or teacher ended it early."""
    parser = argparse.ArgumentParser(
        prog="hf-distill rounds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a YAML file")
    parser.add_argument("--output-dir", help="goes before what the file says")
    parser.add_argument(
        "--dry-run", action="store_true", help="show the first prompt and what the run will cost, and ask nothing"
    )
    options = parser.parse_args(argv)
    config = read_config(options.config)
    if options.output_dir is not None:
        config["output_dir"] = options.output_dir
    if options.dry_run:
        dry_run(config)
        return 0
    return int(run(config).interrupted)


def run(config: Mapping[str, Any], *, console: Console | None = None) -> RoundsResult:
    """Do what `config` says, and show and save what came of it.

    Raises:
        ValueError: something in the configuration is wrong; says what.
    """
    from ..drivers.first_process import is_first_process
    from .printing import print_data, print_result, print_round

    _, data, driver, console = _prepare(config, console)
    print_data(data, console)
    driver.on_round = lambda records: print_round(records, console)
    result = driver.run()
    if is_first_process():
        test = driver.task.open(result.folder).report(data.test) if data.test else None
        print_result(result, test, console)
        _write_record(driver, config, result, test)
    _end()
    return result


def dry_run(config: Mapping[str, Any], *, console: Console | None = None) -> None:
    """Show the first prompt and what the run will cost about; asks nothing.

    The first student is trained for it, since the prompt shows how it does; the real run goes on from there.

    Raises:
        ValueError: something in the configuration is wrong; says what.
    """
    from .printing import print_data

    parsed, data, driver, console = _prepare(config, console)
    print_data(data, console)
    prompts = driver.first_prompts()
    for prompt in prompts:
        console.rule("first prompt", align="left")
        console.print(prompt, markup=False, highlight=False, soft_wrap=True)
    console.rule(align="left")
    if not prompts:
        console.print("The generator asks nobody.")
        return
    mean = sum(len(row["text"]) for row in data.train) / len(data.train)
    reads = sum(map(len, prompts)) // _CHARACTERS_PER_TOKEN
    writes = int(driver.generator.num_rows * (mean + 40) / _CHARACTERS_PER_TOKEN)  # 40: the JSON around a text
    teacher = parsed.teacher if isinstance(parsed.teacher, Mapping) else {}
    read_price, write_price = teacher.get("prompt_price"), teacher.get("completion_price")
    money = "cost unknown: the teacher has no prompt_price and completion_price"
    if read_price is not None and write_price is not None:
        money = f"about {parsed.num_rounds * (reads * read_price + writes * write_price) / 1e6:.4f} in all"
    console.print(
        f"Nothing was asked. Each of at most {parsed.num_rounds} rounds reads about {reads:,} tokens and writes about "
        f"{writes:,}: {money}. An answer that cannot be read is asked for once more.",
        highlight=False,
    )
    _end()


def _prepare(
    config: Mapping[str, Any], console: Console | None
) -> tuple[RoundsConfig, LabelledTexts, RoundsDriver, Console]:
    """The configuration, the data, the driver, and where to print."""
    from rich.console import Console

    from ..drivers.console import quiet_libraries

    parsed = RoundsConfig.parse(config)
    quiet_libraries()
    from ..data.tasks import load_labelled_task
    from ..drivers.first_process import is_first_process

    settings, data = load_labelled_task(parsed.data)
    if settings.unlabelled or settings.split != "train":
        raise ValueError("data has split or unlabelled, but rounds train on all labelled texts of the split train.")
    console = console or Console()
    driver = make_driver(parsed, data, console, max_length=settings.max_length)
    return parsed, data, driver, console if is_first_process() else Console(quiet=True)


def make_driver(config: RoundsConfig, data: LabelledTexts, console: Console, *, max_length: int) -> RoundsDriver:
    """The run that `config` describes, on `data`."""
    from ..drivers.progress import TrainingProgress
    from ..plugins.manager import Plugins
    from .classification import TextClassification
    from .driver import RoundsDriver
    from .generators import RoundGenerator

    plugins = Plugins(config.plugins)
    options = {"name": config.generator} if isinstance(config.generator, str) else dict(config.generator)
    if "name" not in options:
        raise ValueError(f"generator is {config.generator}; expected {{name: pgkd, ...}}.")
    name = options.pop("name")
    generators = plugins.registry("generators", "round")
    generator = generators.create(name, options)
    if not isinstance(generator, RoundGenerator):
        raise ValueError(f"{generators.get(name)} makes a {type(generator).__name__}; expected a RoundGenerator.")
    task = TextClassification(
        config.student,
        labels=data.labels,
        validation=data.validation,
        training={"disable_tqdm": True, **config.training},
        round_training=config.round_training,
        early_stopping=config.early_stopping,
        max_length=max_length,
        seed=config.seed,
        plugins=config.plugins,
        # Where there is no terminal, a line after each round is enough.
        callbacks=lambda title: [TrainingProgress(title, console)] if console.is_terminal else [],
    )
    return RoundsDriver(
        task,
        generator,
        rows=data.train,
        validation=data.validation,
        held_out=data.held_out,
        forbidden=[row["text"] for row in data.test],
        output_dir=config.output_dir,
        teacher=config.teacher,
        budget=config.budget,
        checks=config.checks,
        num_rounds=config.num_rounds,
        patience=config.patience,
        num_folds=config.num_folds,
        seed=config.seed,
        plugins=plugins,
    )


def _write_record(
    driver: RoundsDriver,
    config: Mapping[str, Any],
    result: RoundsResult,
    test: ClassReport | None,
) -> None:
    """What was asked for, with which versions, and what came out, as JSON."""
    import torch
    import transformers

    from .._version import __version__

    record = {
        "config": without_secrets(config),
        "versions": {"hf_distill": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "plugins": driver.plugins.versions(),
        "stopped": result.stopped,
        "best_round": result.best.index,
        "rounds": [record.to_json() for record in result.records],
        "test": test.to_json() if test is not None else None,
    }
    path = driver.files.folder / RECORD
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _end() -> None:
    """Leave the process group, if there is one, in order."""
    from accelerate import PartialState

    PartialState().destroy_process_group()
