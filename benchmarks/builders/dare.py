"""DARE: dropping most of what finetuning changed, with and without rescaling."""

from __future__ import annotations

from experiments.frame import Experiment

from . import intents


def dropped(seed: int, **options: object) -> dict[str, float]:
    """Each finetuned model on its own domain, most of its changes dropped."""
    found = {domain: intents.accuracy(intents.merged(seed, (domain,), options), domain) for domain in intents.DOMAINS}
    return {"accuracy": sum(found.values()) / len(found), **found}


EXPERIMENT = Experiment(
    method="DARE",
    package="hf-distill-weightmaps",
    components=("command merge",),
    paper="Yu et al. 2023, arXiv:2311.03099",
    evidence="faithful",
    what="Of what finetuning on a domain changed, nine entries in ten are dropped and the rest is multiplied by ten, "
    "or left as it is (DropOnly).",
    needs="A base and models finetuned from it.",
    expects="more accuracy of each model on its own domain than by dropping alone",
    metric="accuracy",
    unit="share",
    better="higher",
    baseline="DropOnly, 0.9",
    arm="DARE, 0.9",
    arms={
        "DropOnly, 0.9": lambda seed: dropped(seed, drop_rate=0.9, rescale=False),
        "DARE, 0.9": lambda seed: dropped(seed, drop_rate=0.9),
        "DARE, 0.99": lambda seed: dropped(seed, drop_rate=0.99),
        "finetuned": lambda seed: dropped(seed),
        "base": lambda seed: dropped(seed, scale=0.0),
    },
    data=("clinc150",),
)
