"""Language models of TinyStories for builders: small ones that are grown, and stories260k, which is shrunk.

Rows have 64 tokens of 512; a step has 8 of them. What is not about the builder is as in `experiments.language_models`.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.language_models import measure_lm, new_student, teacher_model, text, tokenizer
from experiments.training import train
from transformers import LlamaForCausalLM, PreTrainedModel, default_data_collator

from hf_distill import LocalTeacher, Plugins, build_student

PLUGINS = Plugins(["weightmaps"])
SMALL = {"hidden_size": 48, "intermediate_size": 128, "num_hidden_layers": 2}
BIG = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4}
HEADS = {48: 4, 96: 8}  # of width 12
# The best of 1e-3, 2e-3, 4e-3 and 8e-3 for a big model with random weights after 300 steps, on a seed that is not
# judged (cross-entropy 3.88, 3.46, 3.24, 3.12); for the small one, too, where 16e-3 was worse.
LEARNING_RATE = 8e-3


def new_model(shape: Mapping[str, int], *, seed: int) -> LlamaForCausalLM:
    """A language model with random weights."""
    heads = HEADS[shape["hidden_size"]]
    return new_student(seed=seed, shape={**shape, "num_attention_heads": heads, "num_key_value_heads": heads})


def fit(
    model: PreTrainedModel,
    steps: int,
    *,
    seed: int,
    losses: Sequence[Any] = ("task",),
    distil: bool = False,
    **more: Any,
) -> PreTrainedModel:
    """Train `model` in place on the stories, by their text or from stories260k."""
    more.setdefault("learning_rate", LEARNING_RATE)
    train(
        model,
        list(losses),
        text()["train"],
        seed=seed,
        steps=steps,
        batch_size=8,
        teacher=LocalTeacher(teacher_model(), tokenizer=tokenizer()) if distil else None,
        data_collator=default_data_collator,
        processing_class=tokenizer(),
        **more,
    )
    return model


@functools.cache
def _small(seed: int) -> LlamaForCausalLM:
    model: Any = fit(new_model(SMALL, seed=seed), 300, seed=seed)
    return model


def small_model(seed: int) -> LlamaForCausalLM:
    """A small model after 300 steps."""
    return copy.deepcopy(_small(seed))


def grown(from_seed: int, **options: Any) -> PreTrainedModel:
    """A big model out of the small one."""
    sizes = {"hidden_size": BIG["hidden_size"], "layers": BIG["num_hidden_layers"]}
    return build_student(small_model(from_seed), "grow", plugins=PLUGINS, **sizes, **options).model


def shrunk(builder: str, **options: Any) -> PreTrainedModel:
    """A student of stories260k."""
    return build_student(teacher_model(), builder, plugins=PLUGINS, **options).model


def distilled(make: Callable[[], PreTrainedModel], *, seed: int, steps: int = 60) -> dict[str, float]:
    """Train what `make` gives with the teacher's distributions, and measure it; with the figures before, too."""
    student = make()
    before = measure_lm(student)
    after = measure_lm(fit(student, steps, seed=seed, losses=["forward_kl"], distil=True))
    return {**after, "forward_kl_before": before["forward_kl"], "parameters": student.num_parameters()}
