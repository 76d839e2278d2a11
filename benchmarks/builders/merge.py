"""Merging two finetuned models into one that does both tasks."""

from __future__ import annotations

from experiments.frame import Experiment

from . import intents


def one_of_two(seed: int) -> dict[str, float]:
    """The mean over both finetuned models of what `on_both` gives."""
    found = [intents.on_both(intents.models(seed)[domain]) for domain in intents.DOMAINS]
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def merged(seed: int, **options: object) -> dict[str, float]:
    """The merged model on both domains."""
    return intents.on_both(intents.merged(seed, intents.DOMAINS, options))


ARMS = {
    "one finetuned model": one_of_two,
    "average": lambda seed: merged(seed, method="average"),
    "task arithmetic": lambda seed: merged(seed, method="task_arithmetic"),
    "TIES": lambda seed: merged(seed, method="ties", density=0.2),
    "DARE, task arithmetic": lambda seed: merged(seed, method="task_arithmetic", drop_rate=0.9),
    "DARE, TIES": lambda seed: merged(seed, method="ties", density=0.1, drop_rate=0.9),
}

EXPERIMENT = Experiment(
    method="Task arithmetic",
    package="hf-distill-weightmaps",
    components=("command merge",),
    paper="Ilharco et al. 2023, arXiv:2212.04089",
    evidence="faithful",
    what="Two models finetuned on a domain each become one, whose accuracy is the mean over both domains.",
    needs="A base and models finetuned from it.",
    expects="more accuracy over both domains than one finetuned model",
    metric="accuracy",
    unit="share",
    better="higher",
    baseline="one finetuned model",
    arm="task arithmetic",
    arms=ARMS,
    data=("clinc150",),
)
