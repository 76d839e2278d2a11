"""``hf-distill stages CONFIG.yaml``: several trainings of one student, one after the other.

    output_dir: outputs/student
    student: path/or/name                  # or {builder: ...}, built from the first stage's teacher
    tokenizer: path/or/name                # by default the student's
    learning_rate: 1e-3                    # whatever a stage does not say itself
    stages:
      - {name: general, teacher: big, losses: [hidden_mse], data: {texts: python, max_length: 128}, max_steps: 1000}
      - {name: task, teacher: tuned, losses: [task, forward_kl], data: {labelled: {data_files: tickets.csv}}}

A stage takes the fields of `hf_distill.drivers.stage_spec.Stage` and of `DistillationArguments`. Instead of a list,
``stages`` may be ``{preset: "package.module:function", ...options}``: a function that makes one. A run that was killed
goes on when it is started again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..drivers.config_file import RECORD, read_config, without_secrets

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from ..drivers.stage_files import StageRecord
    from ..drivers.stages import StagesResult


def stages(argv: list[str]) -> int:
    """Run ``hf-distill stages`` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hf-distill stages",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", help="a YAML file")
    parser.add_argument("--output-dir", help="goes before what the file says")
    options = parser.parse_args(argv)
    config = read_config(options.config)
    if options.output_dir is not None:
        config["output_dir"] = options.output_dir
    run(config)
    return 0


def run(config: Mapping[str, Any], *, console: Console | None = None) -> StagesResult:
    """Do what `config` says, and show and save what came of it.

    Raises:
        ValueError: something in the configuration is wrong; says what.
    """
    from rich.console import Console

    from ..drivers.console import quiet_libraries

    for key in ("output_dir", "student", "stages"):
        if key not in config:
            raise ValueError(f"the configuration has no {key}; `hf-distill stages --help` shows what it needs.")
    quiet_libraries()
    from accelerate import PartialState

    from ..drivers.first_process import is_first_process
    from ..drivers.progress import TrainingProgress
    from ..drivers.stages import StagesDriver

    console = console or Console()
    defaults = {"disable_tqdm": True, **config}
    output_dir, student = defaults.pop("output_dir"), defaults.pop("student")
    listed = make_stages(defaults.pop("stages"))
    driver = StagesDriver(
        listed,
        output_dir=output_dir,
        student=student,
        tokenizer=load_tokenizer(defaults.pop("tokenizer", None), student, listed, defaults),
        plugins=defaults.pop("plugins", ()),
        defaults=defaults,
        callbacks=lambda name: [TrainingProgress(name, console)],
        on_stage=lambda record: _print_stage(record, console),
    )
    result = driver.run()
    if is_first_process():
        _write_record(config, driver.plugins.versions(), result)
        console.print(f"saved the student in {result.folder}", soft_wrap=True)
    PartialState().destroy_process_group()
    return result


def make_stages(spec: Any) -> list[Mapping[str, Any]]:
    """The list of stages, made by a preset where one is named.

    Raises:
        ValueError: neither, a preset that cannot be found, or an option that it lacks.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        return list(spec)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("preset"), str):
        raise ValueError(f"stages is {spec!r}; expected a list of stages, or {{preset: 'module:function', ...}}.")
    from ..data.presets import call_preset

    made: list[Mapping[str, Any]] = call_preset(spec)
    return made


def load_tokenizer(
    name: str | None, student: Any, listed: Sequence[Mapping[str, Any]], defaults: Mapping[str, Any]
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that was named, or the one beside the student or the first teacher that is a folder or a name."""
    from ..teachers.local import load_tokenizer as load

    teachers = [stage.get("teacher", defaults.get("teacher")) for stage in listed]
    sources = [name] if name is not None else [student, *teachers]
    for source in sources:
        source = source.get("model") if isinstance(source, Mapping) else source
        if isinstance(source, str) and (found := load(source)) is not None:
            return found
    if name is not None:
        raise ValueError(f"No tokenizer can be loaded from {name!r}.")
    return None


def _print_stage(record: StageRecord, console: Console) -> None:
    figures = ", ".join(f"{k.removeprefix('eval_')} {v:.3f}" for k, v in record.metrics.items() if k != "epoch")
    console.print(f"{record.name}: {record.steps} steps, {record.stopped}. {figures}", highlight=False, soft_wrap=True)


def _write_record(config: Mapping[str, Any], plugins: Mapping[str, str], result: StagesResult) -> None:
    """What was asked for, with which versions, and what came out, as JSON."""
    from dataclasses import asdict

    import torch
    import transformers

    from .._version import __version__

    record = {
        "config": without_secrets(config),
        "versions": {"hf_distill": __version__, "torch": torch.__version__, "transformers": transformers.__version__},
        "plugins": dict(plugins),
        "stages": [asdict(one) for one in result.records],
    }
    path = Path(str(config["output_dir"])) / RECORD
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
