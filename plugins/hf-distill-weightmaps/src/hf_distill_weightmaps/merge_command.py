"""``hf-distill merge CONFIG.yaml``: one model out of several that were finetuned from one base.

    base: path/of/base
    models: [path/of/first, {model: path/of/second, weight: 0.5}]
    output_dir: outputs/merged
    method: ties                # task_arithmetic (base + scale * sum), average, ties
    scale: 1.0
    density: 0.2                # of ties: the share of each task vector that stays
    drop_rate: 0.9              # DARE, before any of the methods; rescale: false for DropOnly
    seed: 0
    exclude: ["classifier.*"]   # tensors that are the base's
    shard_gigabytes: 4

Tensors are read, merged and written one at a time: memory holds one tensor of each model and one file of the result.
Arithmetic is in float32, the result in the base's dtypes. Configuration and tokenizer are the base's.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from .checkpoints import Checkpoint, ShardWriter
from .merging import METHODS, combine, dare, generator_for, magnitude_threshold

RECORD = "merge.json"
_PART = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What is merged, and how.

    Attributes:
        base: folder or hub name of the model that all others were finetuned from.
        models: folders or hub names, or ``{model: ..., weight: ...}``; weights multiply task vectors.
        output_dir: where the result goes; must be new or empty.
        method: "task_arithmetic", "average" or "ties".
        scale: lambda, which multiplies the merged task vector.
        density: of ties, the share of each model's task vector that stays.
        drop_rate: of DARE; 0 drops nothing.
        rescale: divide what DARE leaves by 1 - drop_rate.
        seed: of what DARE drops.
        exclude: patterns of tensors that stay the base's (heads).
        shard_gigabytes: the largest file of the result.
    """

    base: str
    models: Sequence[str | Mapping[str, Any]]
    output_dir: str
    method: str = "task_arithmetic"
    scale: float = 1.0
    density: float = 0.2
    drop_rate: float = 0.0
    rescale: bool = True
    seed: int = 0
    exclude: Sequence[str] = field(default_factory=tuple)
    shard_gigabytes: float = 4.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; expected {', '.join(METHODS)}.")
        if not self.models:
            raise ValueError("models is empty; expected folders or hub names of what to merge.")
        if not 0 <= self.drop_rate < 1:
            raise ValueError(f"drop_rate is {self.drop_rate}; expected a share from 0 to below 1.")
        if not 0 < self.density <= 1:
            raise ValueError(f"density is {self.density}; expected a share above 0, at most 1.")
        for one in self.models:
            if isinstance(one, Mapping) and ("model" not in one or set(one) - {"model", "weight"}):
                raise ValueError(f"A model is {dict(one)}; expected {{model: path, weight: number}}.")

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Merge:
        """From the mapping of a file.

        Raises:
            ValueError: an unknown field, one that is missing, or a value out of range.
        """
        known = [one.name for one in fields(cls)]
        if unknown := [key for key in values if key not in known]:
            raise ValueError(f"There is no field {unknown[0]!r}; there are {', '.join(known)}.")
        if missing := [key for key in ("base", "models", "output_dir") if key not in values]:
            raise ValueError(f"The configuration has no {missing[0]}; `hf-distill merge --help` shows what it needs.")
        return cls(**values)


def merge(argv: list[str]) -> int:
    """Run ``hf-distill merge`` and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="hf-distill merge",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, help="a YAML file")
    parser.add_argument("--output-dir", help="goes before what the file says")
    options = parser.parse_args(argv)
    values = yaml.safe_load(options.config.read_text(encoding="utf-8")) or {}
    if options.output_dir is not None:
        values["output_dir"] = options.output_dir
    print(f"saved the merged model in {merge_checkpoints(Merge.parse(values))}")
    return 0


def merge_checkpoints(spec: Merge) -> Path:
    """Merge, and give the folder of the result.

    Raises:
        ValueError: models that do not belong together, or a folder that has something in it.
    """
    folder = Path(spec.output_dir)
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"output_dir {spec.output_dir!r} is not empty; remove it or name another.")
    run = _Run(spec)
    partial_folder = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    writer = ShardWriter(partial_folder, shard_bytes=int(spec.shard_gigabytes * 1e9))
    thresholds = run.thresholds() if spec.method == "ties" else None
    for name in run.base:
        writer.add(name, run.merged(name, thresholds))
    writer.finish()
    _save_surroundings(spec.base, partial_folder)
    record = {**asdict(spec), "thresholds": None if thresholds is None else thresholds.tolist()}
    (partial_folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if folder.exists():
        folder.rmdir()
    partial_folder.rename(folder)
    return folder


class _Run:
    """The checkpoints of a merge, opened and compared."""

    def __init__(self, spec: Merge) -> None:
        self.spec = spec
        self.base = Checkpoint(spec.base)
        chosen = [{"model": one} if isinstance(one, str) else one for one in spec.models]
        self.models = [Checkpoint(one["model"]) for one in chosen]
        self.weights = [float(one.get("weight", 1.0)) for one in chosen]
        names = list(self.base)
        for pattern in spec.exclude:
            if not fnmatch.filter([*names, *(name for model in self.models for name in model)], pattern):
                raise ValueError(f"exclude names {pattern!r}, which no tensor matches; names are like {names[0]!r}.")
        self.merged_names = [name for name in names if not self._excluded(name)]
        for model in self.models:
            self._check(model)

    def thresholds(self) -> Tensor:
        """The least magnitude of each model's task vector that TIES keeps, ``[K]``."""
        found = [magnitude_threshold(partial(self._task_vector, k), self.spec.density) for k in range(len(self.models))]
        return torch.tensor(found)

    def merged(self, name: str, thresholds: Tensor | None) -> Tensor:
        """One tensor of the result."""
        base = self.base[name]
        if self._excluded(name) or not base.is_floating_point():
            return base
        wide = base.float().flatten()
        deltas = [self._delta(k, name, base.float()).flatten() for k in range(len(self.models))]
        method, scale = self.spec.method, self.spec.scale
        parts = [  # a part at a time, since TIES takes several times the memory of what it merges
            combine(part, own, method=method, scale=scale, thresholds=thresholds).to(base.dtype)
            for part, *own in zip(wide.split(_PART), *(delta.split(_PART) for delta in deltas), strict=True)
        ]
        return torch.cat(parts).reshape(base.shape)

    def _task_vector(self, index: int) -> Iterator[Tensor]:
        for name in self.merged_names:
            base = self.base[name]
            if base.is_floating_point():
                yield self._delta(index, name, base.float())

    def _delta(self, index: int, name: str, base: Tensor) -> Tensor:
        delta = self.models[index][name].float() - base
        if self.spec.drop_rate:
            generator = generator_for(self.spec.seed, index, name)
            delta = dare(delta, self.spec.drop_rate, rescale=self.spec.rescale, generator=generator)
        return self.weights[index] * delta

    def _excluded(self, name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.spec.exclude)

    def _check(self, model: Checkpoint) -> None:
        missing = [name for name in self.merged_names if name not in model]
        more = [name for name in model if name not in self.base and not self._excluded(name)]
        if missing or more:
            raise ValueError(
                f"{model.path!r} is not of the base {self.base.path!r}: without {missing[:5]}, with {more[:5]} in "
                "addition. Name tensors that are not to be merged in exclude."
            )
        for name in self.merged_names:
            if model.shape(name) != self.base.shape(name):
                shapes = f"{model.shape(name)} in {model.path!r} and {self.base.shape(name)} in {self.base.path!r}"
                raise ValueError(f"{name} is {shapes}; name it in exclude, or merge models of one shape.")


def _save_surroundings(base: str, folder: Path) -> None:
    """Configuration, generation defaults and tokenizer of the base, as far as it has them."""
    AutoConfig.from_pretrained(base).save_pretrained(folder)
    for kind in (GenerationConfig, AutoTokenizer):
        try:
            kind.from_pretrained(base).save_pretrained(folder)
        except (OSError, ValueError):
            continue
