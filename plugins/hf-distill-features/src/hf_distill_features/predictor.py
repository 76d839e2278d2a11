"""AutoDistiller: what finished runs say about configurations on a data set that none of them was on."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from sklearn.ensemble import RandomForestRegressor
from sklearn.feature_extraction import DictVectorizer
from sklearn.pipeline import Pipeline, make_pipeline

from .runs import Configuration, Run

NUM_TREES = 200


@dataclass(frozen=True)
class Row:
    """A configuration on a data set, repetitions averaged.

    Attributes:
        data, size, configuration: as in `Run`; of the configuration what differs between runs.
        score: the mean.
        gain: how much better than the mean score on this data set, as a share of that.
        runs: how many.
    """

    data: str
    size: Mapping[str, float]
    configuration: Configuration
    score: float
    gain: float
    runs: int


@dataclass(frozen=True)
class Check:
    """What the predictor would have been worth on a data set that was kept from it.

    Attributes:
        data: the data set.
        error: mean absolute error of the predicted gains.
        regret: gain of the best configuration less that of the recommended one.
        random_regret: the same of a configuration taken at random.
    """

    data: str
    error: float
    regret: float
    random_regret: float


@dataclass(frozen=True)
class Recommendation:
    """A configuration, its predicted gain on the new data set, the gains seen elsewhere, and on how many data sets."""

    configuration: Configuration
    predicted: float
    seen: float
    num_data: int


def tabulate(runs: Sequence[Run], *, lower_is_better: bool) -> list[Row]:
    """Configurations on data sets, with their gains.

    Raises:
        ValueError: fewer than two data sets or two configurations, a data set with one configuration, or one whose
            mean score is zero.
    """
    differing = {
        name
        for name in {name for run in runs for name in run.configuration}
        if len({run.configuration.get(name) for run in runs}) > 1
    }
    grouped: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        chosen = {name: value for name, value in run.configuration.items() if name in differing}
        grouped[run.data][json.dumps(chosen, sort_keys=True)].append(run)
    _check_enough(runs, grouped)
    rows = []
    for data, configurations in grouped.items():
        scores = {key: fmean(run.score for run in same) for key, same in configurations.items()}
        mean = fmean(scores.values())
        if mean == 0:
            raise ValueError(f"The mean score on {data} is 0, of which nothing is a share; choose another score.")
        for key, same in configurations.items():
            gain = (scores[key] / mean - 1) * (-1 if lower_is_better else 1)
            rows.append(Row(data, same[0].size, json.loads(key), scores[key], gain, len(same)))
    return rows


def _check_enough(runs: Sequence[Run], grouped: Mapping[str, Mapping[str, Any]]) -> None:
    keys = {key for configurations in grouped.values() for key in configurations}
    few = [data for data, configurations in grouped.items() if len(configurations) < 2]
    if len(grouped) >= 2 and not few:
        return
    found = f"{len(runs)} runs of {len(keys)} configurations on {len(grouped)} data sets"
    where = f"; on {', '.join(few)} there is one only" if few else ""
    raise ValueError(
        f"Found {found}{where}. A recommendation for another data set needs at least two data sets with at least two "
        "configurations on each, better the same ones on all."
    )


def leave_one_data_set_out(rows: Sequence[Row]) -> list[Check]:
    """The predictor on each data set, fitted to the others."""
    checks = []
    for data in sorted({row.data for row in rows}):
        held_out = [row for row in rows if row.data == data]
        model = fit([row for row in rows if row.data != data])
        predicted = model.predict([_features(row.configuration, row.size) for row in held_out])
        gains = [row.gain for row in held_out]
        chosen = max(range(len(held_out)), key=lambda index: predicted[index])
        error = fmean(abs(gain - guess) for gain, guess in zip(gains, predicted, strict=True))
        checks.append(Check(data, error, max(gains) - gains[chosen], max(gains) - fmean(gains)))
    return checks


def recommend(rows: Sequence[Row], size: Mapping[str, float | None]) -> list[Recommendation]:
    """All configurations that were tried, the best first.

    Args:
        rows: what was found.
        size: of the new data set; the median of the known ones where it is not known.
    """
    known = {name: median(row.size[name] for row in rows) for name in rows[0].size}
    new = {name: default if size.get(name) is None else size[name] for name, default in known.items()}
    grouped: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[json.dumps(row.configuration, sort_keys=True)].append(row)
    configurations = [same[0].configuration for same in grouped.values()]
    predicted = fit(rows).predict([_features(configuration, new) for configuration in configurations])
    found = [
        Recommendation(same[0].configuration, float(guess), fmean(row.gain for row in same), len(same))
        for same, guess in zip(grouped.values(), predicted, strict=True)
    ]
    return sorted(found, key=lambda recommendation: -recommendation.predicted)


def fit(rows: Sequence[Row]) -> Pipeline:
    """A random forest from configuration and size of the data to the gain."""
    forest = RandomForestRegressor(n_estimators=NUM_TREES, random_state=0)
    model = make_pipeline(DictVectorizer(sparse=False), forest)
    return model.fit([_features(row.configuration, row.size) for row in rows], [row.gain for row in rows])


def _features(configuration: Configuration, size: Mapping[str, Any]) -> dict[str, Any]:
    return {**configuration, **{f"size of the data: {name}": value for name, value in size.items()}}
