"""What a model costs before anything is trained: parameters, size on disk, work per token, and time on this machine.

model_cost(model, length=128)["flops_per_token"]
"""

from __future__ import annotations

import contextlib
import statistics
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from .configs import skeleton
from .latency import measure_runs, measure_seconds, sample_inputs


@dataclass(frozen=True)
class ModelCost:
    """What a model costs.

    Attributes:
        parameters: how many, tied ones once.
        bytes: of its weights as safetensors files hold them, in the dtype that it has, tied ones once.
        flops_per_token: of a forward pass over `length` tokens, divided by them (of images: for one image); a
            multiplication and an addition are two. Matrix products are counted, attention's included and whole (also
            where it is causal). None where the family's code cannot run without values.
        latency: seconds of a forward pass over one sequence of `length` tokens; None where it was not measured.
        spread: the slowest of the runs that latency is the median of, divided by the fastest.
        tokens_per_second: (of images: images per second) of forward passes over `batch_size` sequences.
        length: S.
        batch_size: B.
    """

    parameters: int
    bytes: int
    flops_per_token: float | None
    latency: float | None
    spread: float | None
    tokens_per_second: float | None
    length: int
    batch_size: int


def model_cost(
    model: PreTrainedModel,
    *,
    length: int = 128,
    batch_size: int = 8,
    measure: bool = True,
    warm_up: int = 3,
    repeats: int = 10,
) -> ModelCost:
    """What a model costs; one without values is counted, but not measured.

    Args:
        model: of text or images.
        length: of each sequence, S.
        batch_size: B, for the throughput.
        measure: whether to run it.
        warm_up: runs that do not count.
        repeats: runs of which the median is taken.

    Raises:
        ValueError: it takes neither text nor images, or has fewer positions than `length`.
    """
    latency = spread = throughput = None
    if measure and model.device.type != "meta":
        timing: Any = {"device": model.device, "warm_up": warm_up, "repeats": repeats}
        single, batch = (sample_inputs(model, batch_size=size, length=length) for size in (1, batch_size))
        was_training = model.training
        model.eval()
        runs = measure_runs(lambda: model(**single), **timing)
        latency, spread = statistics.median(runs), max(runs) / min(runs)
        seconds = measure_seconds(lambda: model(**batch), **timing)
        model.train(was_training)
        items = batch_size * (length if "input_ids" in batch else 1)
        throughput = items / seconds
    return ModelCost(
        parameters=sum(one.numel() for one in model.parameters()),
        bytes=_bytes(model),
        flops_per_token=_flops(model, length),
        latency=latency,
        spread=spread,
        tokens_per_second=throughput,
        length=length,
        batch_size=batch_size,
    )


def _bytes(model: PreTrainedModel) -> int:
    tensors = {id(one): one for one in model.state_dict(keep_vars=True).values()}
    return sum(one.numel() * one.element_size() for one in tensors.values())


def _flops(model: PreTrainedModel, length: int) -> float | None:
    """Counted on a copy without values, where transforms allow one, in attention that is made of plain products."""
    attention = model.config._attn_implementation
    try:
        counted = model
        with contextlib.suppress(ValueError):  # a transformed model has no skeleton; it counts as it is
            counted = skeleton(model, model.config)
            counted.set_experts_implementation("batched_mm")  # where there are any: those that a token goes to
        counted.set_attn_implementation("eager")
        inputs = sample_inputs(counted, batch_size=1, length=length)
        mask = {"attention_mask": torch.ones_like(inputs["input_ids"])} if "input_ids" in inputs else {}
        # Some families look at the values of a mask, and some at those of the ids where there is none.
        for more in ({}, mask):
            # Some also look at values otherwise, as routing to experts may.
            with contextlib.suppress(RuntimeError), torch.no_grad(), FlopCounterMode(display=False) as counter:
                counted(**inputs, **more)
                flops: int = counter.get_total_flops()
                return flops / (length if mask else 1)
    finally:
        model.set_attn_implementation(attention)
    return None
