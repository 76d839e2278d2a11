"""Sparse fine-tuning by lottery tickets: two domains of intents are learnt apart, and their differences are added."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from experiments import classifiers
from experiments.frame import Experiment
from experiments.training import train
from hf_distill_prune.differences import added, difference
from transformers import DataCollatorWithPadding

from hf_distill import Plugins, build_student

from .intents import DOMAINS, models, on_both, rows

DENSITY, STEPS = 0.05, 200
RATE = 1e-3


def fit(model: Any, domain: str, *, seed: int, steps: int) -> Any:
    """Train `model` in place, without weight decay."""
    train(
        model,
        ["task"],
        rows(domain, "train"),
        seed=seed,
        steps=steps,
        batch_size=32,
        learning_rate=RATE,
        arguments={"weight_decay": 0.0},
        data_collator=DataCollatorWithPadding(classifiers.tokenizer()),
    )
    return model


def copied(seed: int, folder: str) -> Any:
    """The base as its folder has it."""
    models(seed)["base"].save_pretrained(folder)
    return type(models(seed)["base"]).from_pretrained(folder).eval()


def dense(domain: str, seed: int) -> Any:
    """All parameters learn."""
    with tempfile.TemporaryDirectory() as folder:
        return fit(copied(seed, folder), domain, seed=seed, steps=STEPS)


def ticket(domain: str, seed: int, *, by_chance: bool = False) -> Any:
    """5 % of the parameters learn, the head included: those that moved most in the first half of the steps."""
    with tempfile.TemporaryDirectory() as folder:
        base = copied(seed, folder)
        tuned = copied(seed, folder)
        if by_chance:
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                for parameter in tuned.parameters():
                    parameter.add_(torch.rand(parameter.shape, generator=generator))
        else:
            fit(tuned, domain, seed=seed, steps=STEPS // 2)
        tuned.save_pretrained(Path(folder) / "tuned")
        options = {"tuned": str(Path(folder) / "tuned"), "density": DENSITY, "free": []}
        student = build_student(base, "lottery_ticket", plugins=Plugins(["prune"]), **options).model
    return fit(student, domain, seed=seed, steps=STEPS if by_chance else STEPS // 2)


def together(seed: int, make: Any) -> dict[str, float]:
    """Both differences added to the base."""
    with tempfile.TemporaryDirectory() as folder:
        model = copied(seed, folder)
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    found = [difference(dict(make(domain, seed).named_parameters()), base) for domain in DOMAINS]
    with torch.no_grad():
        for name, value in added(base, found).items():
            model.get_parameter(name).copy_(value)
    return {**on_both(model), "changed": float(sum(len(places) for one in found for places, _ in one.values()))}


EXPERIMENT = Experiment(
    method="LT-SFT",
    package="hf-distill-prune",
    components=("student lottery_ticket", "student add_differences"),
    paper="Ansell et al. 2022, arXiv:2110.07560",
    evidence="after the paper's description",
    what="A base that has seen 5 examples of each of 45 intents learns banking, and a copy of it travel, in 200 steps "
    "each; what changed is added up. 5 % of the parameters change, those that moved most in the first half of the "
    "steps (which is part of the budget), or 5 % by chance; or all of them.",
    needs="One base for all differences.",
    expects="higher accuracy on both domains than with parameters by chance",
    metric="accuracy",
    unit="mean share of held-out examples",
    better="higher",
    baseline="by chance",
    arm="lottery ticket",
    arms={
        "the base": lambda seed: on_both(models(seed)["base"]),
        "all parameters": lambda seed: together(seed, dense),
        "by chance": lambda seed: together(seed, lambda *args: ticket(*args, by_chance=True)),
        "lottery ticket": lambda seed: together(seed, ticket),
    },
    data=("clinc150",),
)
