"""What ``hf-distill train`` left behind of finished runs: which data, which configuration, which score."""

from __future__ import annotations

import fnmatch
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

RECORD = "run.json"
# Which text it is; what else ``data:`` says is how it is cut, hence part of the configuration.
_SOURCE = ("texts", "path", "name", "data_files")
# Where a run writes, what it says and how often: not how it trains.
_IGNORED = ("output_dir", "run_name", "seed", "data_seed", "tokenizer", "report_to", "disable_tqdm", "use_cpu")
_IGNORED_PREFIXES = ("logging_", "log_", "save_", "eval_", "hub_", "push_to_hub", "dataloader_", "load_best", "resume_")

Configuration = Mapping[str, Any]


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        data: which data set.
        size: figures of it, by name.
        configuration: options by their path ("losses.forward_kl.weight"), numbers and texts.
        score: how good the student was.
    """

    data: str
    size: Mapping[str, float]
    configuration: Configuration
    score: float


def read_runs(folders: Iterable[str | Path], score: str) -> list[Run]:
    """The runs recorded in some folders and in those below them.

    Args:
        folders: where to look for files run.json.
        score: a metric of the records, or a pattern such as ``"eval_*perplexity"``; the mean where several match.

    Raises:
        ValueError: there are no records, one cannot be read, or one lacks the score.
    """
    paths = sorted({path.resolve() for folder in folders for path in Path(folder).rglob(RECORD)})
    if not paths:
        raise ValueError(
            f"There is no {RECORD} in {', '.join(map(str, folders))} or below; `hf-distill train` writes one into its "
            "output_dir."
        )
    return [_read(path, score) for path in paths]


def _read(path: Path, score: str) -> Run:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        config = {**record["config"], **_overrides(record["overrides"])}
        metrics = record["metrics"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a record of `hf-distill train`: {type(error).__name__} {error}.") from error
    found = [value for name, value in metrics.items() if fnmatch.fnmatch(name, score)]
    if not found or not math.isfinite(fmean(found)):
        raise ValueError(
            f"{path} has no finite metric {score!r}; it has {', '.join(sorted(metrics)) or 'none'}. Choose one of "
            "these with --score, or evaluate in every run."
        )
    data = dict(config.pop("data", None) or {})
    source = {name: data.pop(name) for name in _SOURCE if name in data}
    domains = record.get("domains", {})
    size = {"rows": float(sum(domains.values())), "domains": float(len(domains))}
    options = {name: value for name, value in config.items() if not _is_ignored(name)}
    return Run(json.dumps(source, sort_keys=True), size, flatten({**options, "data": data}), fmean(found))


def _is_ignored(name: str) -> bool:
    return name in _IGNORED or name.startswith(_IGNORED_PREFIXES)


def _overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Options of a command line: ``["--max_steps", "10", "--bf16"]``."""
    found: dict[str, Any] = {}
    name = None
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            name = name.replace("-", "_")
            found[name] = yaml.safe_load(value) if equals else True
        elif name is not None:
            found[name] = yaml.safe_load(argument)
    return found


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Numbers and texts by their path; entries of a list by their label or name, with their weight as the value.

    ``{"losses": ["task", {"name": "jsd", "weight": 0.5, "beta": 0.1}]}`` gives ``losses.task`` 1.0, ``losses.jsd`` 0.5
    and ``losses.jsd.beta`` 0.1.
    """
    dot = f"{prefix}." if prefix else ""
    if isinstance(value, Mapping):
        parts = [flatten(part, f"{dot}{name}") for name, part in value.items()]
    elif isinstance(value, list):
        parts = [_flatten_entry(part, dot, index) for index, part in enumerate(value)]
    elif value is None:
        return {}
    else:
        return {prefix: _number(value)}
    return {name: found for part in parts for name, found in part.items()}


def _flatten_entry(value: Any, dot: str, index: int) -> dict[str, Any]:
    if isinstance(value, str):
        return {f"{dot}{value}": 1.0}
    if isinstance(value, Mapping) and (name := value.get("label") or value.get("name")):
        options = {key: option for key, option in value.items() if key not in ("label", "name", "weight")}
        return {**flatten(value.get("weight", 1.0), f"{dot}{name}"), **flatten(options, f"{dot}{name}")}
    return flatten(value, f"{dot}{index}")


def _number(value: Any) -> float | str:
    """A finite number where it is one or spells one (YAML reads 1e-3 as text)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(value)
