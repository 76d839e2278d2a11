"""Running a function inside a wrapped model's forward pass, so that DDP and DeepSpeed see everything it does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .layers import unwrap


def run_in_forward(wrapper: nn.Module, module: nn.Module, function: Callable[[Callable[..., Any]], Any]) -> Any:
    """Call `function(forward)` within the forward pass of `wrapper`; `forward` is that of `module` inside.

    DDP and DeepSpeed prepare their gradient hooks around the wrapper's own forward pass. A loss that calls the module
    directly, or touches the head's weight after that pass, is invisible to them: DDP then takes the head for unused,
    and ZeRO-3 shows a weight of no elements. So the wrapper is called, and the module's forward is replaced for that
    one call.

    Args:
        wrapper: what the trainer calls, for instance ``DistributedDataParallel(module)``; may be `module` itself.
        module: the unwrapped model.
        function: gets the model's own forward and returns tensors in tuples, lists or dicts (DDP walks through these).

    Returns:
        What `function` returned.
    """
    compiled = getattr(wrapper, "_orig_mod", None)
    if wrapper is module or compiled is module:
        return function(wrapper)
    if compiled is not None:
        # torch.compile is outermost: only the model's forward is to be compiled, not the loss around it.
        return run_in_forward(compiled, module, lambda forward: function(wrapper.dynamo_ctx(forward)))  # type: ignore[operator]

    own = module.__dict__.get("forward")  # set by accelerate's autocast

    def restore() -> None:
        if own is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = own

    def redirected(*args: Any, **kwargs: Any) -> Any:
        restore()
        return function(module.forward)

    module.forward = redirected
    try:
        return wrapper()
    finally:
        restore()


def accepted_inputs(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The inputs that `model.forward` names; a teacher of another family may not know all of the student's."""
    names = inspect.signature(unwrap(model).forward).parameters
    accepted = {k: v for k, v in inputs.items() if k in names}
    return accepted | {"use_cache": False} if "use_cache" in names else accepted
