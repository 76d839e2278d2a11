"""AutoDistiller: the configuration that it recommends for a data set it has not seen, against one taken at random."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from hf_distill_features.predictor import leave_one_data_set_out, tabulate
from hf_distill_features.runs import Run, flatten

from .classifiers import distil_classifier
from .frame import Experiment
from .images import distil_images

DATA = {
    "intents": (distil_classifier, {}),
    "digits, transformer from convolutions": (distil_images, {"teacher": "resnet", "student": "vit"}),
    "digits, convolutions from transformer": (distil_images, {"teacher": "vit", "student": "resnet"}),
}
LOSSES: list[list[Any]] = [["task"], ["task", "forward_kl"], ["task", {"name": "forward_kl", "temperature": 4.0}]]
LEARNING_RATES = (1e-3, 3e-3)


@functools.cache
def regrets(seed: int) -> Mapping[str, float]:
    """Of the recommended configuration and of one at random, the mean over the data sets, each left out in turn."""
    runs = []
    for name, (distil, options) in DATA.items():
        for losses in LOSSES:
            for rate in LEARNING_RATES:
                figures = distil(losses, seed=seed, steps=60, learning_rate=rate, **options)
                configuration = flatten({"losses": losses, "learning_rate": rate})
                runs.append(
                    Run(name, {"rows": 450.0 if name == "intents" else 100.0}, configuration, figures["accuracy"])
                )
    checks = leave_one_data_set_out(tabulate(runs, lower_is_better=False))
    return {
        "recommended": fmean(check.regret for check in checks),
        "at random": fmean(check.random_regret for check in checks),
    }


EXPERIMENT = Experiment(
    method="AutoDistiller",
    package="hf-distill-features",
    components=("command recommend",),
    paper="He et al. 2021, arXiv:2109.11105",
    evidence="after the paper's description",
    what="A regression from configuration and size of the data to the score is fitted to finished runs. "
    "It ranks configurations for a data set that none of them was on.",
    needs="Records of finished runs on at least two data sets.",
    expects="less regret (what the best configuration gains over the chosen one) than by a random choice",
    metric="regret",
    unit="share of the mean accuracy",
    better="lower",
    baseline="at random",
    arm="recommended",
    arms={
        "at random": lambda seed: {"regret": regrets(seed)["at random"]},
        "recommended": lambda seed: {"regret": regrets(seed)["recommended"]},
    },
    data=("clinc150",),
)
