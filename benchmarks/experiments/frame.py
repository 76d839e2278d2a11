"""What an experiment is: arms that are run for several seeds, and what their difference says."""

from __future__ import annotations

import importlib
import math
import os
import pkgutil
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("HF_DISTILL_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
EVIDENCE = ("faithful", "after the paper's description")

Metrics = Mapping[str, float]
Arm = Callable[[int], Metrics]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A method against its baseline: same data, same budget, the same seeds.

    Attributes:
        method: what it is called.
        package: the distribution that it comes in.
        components: its registered names with their kinds, ``"loss taid"``; their options are listed in the docs.
        paper: authors, year, arXiv id.
        evidence: whether it follows the paper or its code ("faithful"), or only what others tell of it ("after the
            paper's description").
        what: what the method does, in two sentences.
        needs: what it needs: columns, features, a second teacher.
        expects: the direction that the paper leads to expect, in words.
        metric: which figure of the arms is compared.
        unit: its unit.
        better: whether less or more of it is better, "lower" or "higher".
        baseline: the arm without the method.
        arm: the arm with it.
        arms: from a seed to figures by name, for each arm; others beside the two are shown, but not judged.
        data: folders of the shared data that it reads.
        reference: where the paper reports the gain (a table, a figure, a section).
    """

    method: str
    package: str
    components: tuple[str, ...] = ()
    paper: str
    evidence: str
    what: str
    needs: str
    expects: str
    metric: str
    unit: str
    better: str
    baseline: str
    arm: str
    arms: Mapping[str, Arm]
    data: tuple[str, ...] = ()
    reference: str = ""

    def __post_init__(self) -> None:
        if self.evidence not in EVIDENCE:
            raise ValueError(f"The evidence of {self.method} is {self.evidence!r}; expected one of {EVIDENCE}.")
        if self.better not in ("lower", "higher"):
            raise ValueError(f'better of {self.method} is {self.better!r}; expected "lower" or "higher".')
        if absent := [arm for arm in (self.baseline, self.arm) if arm not in self.arms]:
            raise ValueError(f"{self.method} has no arm {absent[0]!r}; there are {', '.join(map(repr, self.arms))}.")

    def absent_data(self) -> list[str]:
        """Folders of the shared data that are not here."""
        return [name for name in self.data if not (SHARED / name).is_dir()]


@dataclass(frozen=True)
class Effect:
    """How far the method is from its baseline, paired by seed; positive where it is better.

    Attributes:
        mean: over the seeds.
        spread: sample standard deviation over the seeds; not a number where there is one.
        verdict: "shown" where every seed has the right sign and the mean exceeds the spread, "reversed" where the same
            holds for the wrong sign, otherwise "not shown".
    """

    mean: float
    spread: float
    verdict: str

    @classmethod
    def of(cls, baseline: Sequence[float], method: Sequence[float], *, better: str) -> Effect:
        """The effect of the figures of two arms, one a seed."""
        sign = 1 if better == "higher" else -1
        gains = [sign * (with_it - without) for with_it, without in zip(method, baseline, strict=True)]
        mean, spread = statistics.mean(gains), deviation(gains)
        verdict = "not shown"
        if abs(mean) > spread:  # never with one seed
            if all(gain > 0 for gain in gains):
                verdict = "shown"
            elif all(gain < 0 for gain in gains):
                verdict = "reversed"
        return cls(mean, spread, verdict)


def deviation(values: Sequence[float]) -> float:
    """The sample standard deviation; not a number for a single value."""
    return statistics.stdev(values) if len(values) > 1 else float("nan")


def broken(experiment: Experiment | Exception, result: Mapping[str, Any] | None) -> str | None:
    """What is wrong with the result of an experiment, or None."""
    if result is None:
        return "not run yet"
    if result["error"] is not None:
        return str(result["error"])
    assert isinstance(experiment, Experiment), "what cannot be imported has an error"
    for arm in experiment.arms:
        values = result["values"].get(arm, [])
        if len(values) < result["config"]["seeds"]:
            return f"{arm} was run for {len(values)} of {result['config']['seeds']} seeds"
        if not all(math.isfinite(one.get(experiment.metric, math.nan)) for one in values):
            return f"{arm} gave no finite {experiment.metric}"
    return None


def effect(experiment: Experiment, result: Mapping[str, Any]) -> Effect:
    """What the result says about the method."""
    baseline, method = (figures(result, arm, experiment.metric) for arm in (experiment.baseline, experiment.arm))
    return Effect.of(baseline, method, better=experiment.better)


def figures(result: Mapping[str, Any], arm: str, metric: str) -> list[float]:
    """The figures of one arm, one a seed."""
    return [one[metric] for one in result["values"][arm]]


def experiment_names(package: str = "experiments") -> list[str]:
    """The files that may hold an experiment, in order of name."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


def load(names: Iterable[str], package: str = "experiments") -> dict[str, Experiment | Exception]:
    """The experiments in these files, by name; what went wrong where one cannot be imported."""
    found: dict[str, Experiment | Exception] = {}
    for name in names:
        try:
            experiment = getattr(importlib.import_module(f"{package}.{name}"), "EXPERIMENT", None)
        except Exception as error:  # a plugin that is not installed is a result of its experiment, not of all
            found[name] = error
        else:
            if experiment is not None:
                found[name] = experiment
    return found
