"""The output head of a model, run on chosen rows instead of on the whole batch.

    head = Head.of(model)
    with head.deferred(skip=True) as captured:
        model(**inputs)  # no [B, S, V] logits
    logits = head.project(captured.states[mask])

Shape letters: n rows, H hidden width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from operator import attrgetter
from typing import TypeVar

import torch
from torch import Tensor, nn

from .logit_tail import Operation, UnsupportedHead, trace_logit_ops

__all__ = ["Captured", "Head", "UnsupportedHead"]

_T = TypeVar("_T")


class Captured:
    """What `Head.deferred` yields: `states`, ``[..., H]``, is set once the model has run."""

    states: Tensor


class Head:
    """The last projection of a model and what the model's own forward pass does to the logits after it.

    Args:
        model: the model that holds the parameters, without wrappers.
        module: its output embeddings.
        tail: what follows (see `hf_distill.models.logit_tail`).

    Attributes:
        module: the projection; anything that maps states to logits (a LoRA layer around a linear one, for instance).
    """

    def __init__(self, model: nn.Module, module: nn.Module, tail: tuple[Operation, ...]) -> None:
        self.model = model
        self.module = module
        self.tail = tail

    @classmethod
    def of(cls, model: nn.Module) -> Head | None:
        """The head of `model`, or None for one without output embeddings (a classifier, for instance).

        Args:
            model: unwrapped but for PEFT; may be sharded.

        Raises:
            UnsupportedHead: it has output embeddings, but its logits do not follow from them; says why.
        """
        base = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
        find = getattr(base, "get_output_embeddings", None)
        module = find() if find is not None else None
        if module is None:
            return None
        return cls(base, module, trace_logit_ops(base))  # type: ignore[arg-type]

    @property
    def weight(self) -> Tensor | None:
        """The ``[V, H]`` weight of a plain linear head; None for any other kind."""
        return self.module.weight if type(self.module) is nn.Linear else None

    @property
    def bias(self) -> Tensor | None:
        """The ``[V]`` bias of a plain linear head, if it has one."""
        return self.module.bias if type(self.module) is nn.Linear else None

    @property
    def vocab_size(self) -> int:
        """How many columns the logits have, padded ones included."""
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return int(getattr(weight, "ds_shape", weight.shape)[0])

    def parameters(self) -> list[nn.Parameter]:
        """Every parameter that `project` reads."""
        names = [name for operation in self.tail for name in operation.tensor_names]
        tensors = [self._find(name) for name in names]
        return [*self.module.parameters(), *(tensor for tensor in tensors if isinstance(tensor, nn.Parameter))]

    def project(self, states: Tensor) -> Tensor:
        """Logits as the model's own forward pass gives them: ``[..., H]`` to ``[..., V]``."""
        logits: Tensor = self.module(states)
        return self.finish(logits)

    def finish(self, logits: Tensor) -> Tensor:
        """What comes after the projection itself; any leading shape."""
        for operation in self.tail:
            logits = operation(logits, self._find)
        return logits

    def _find(self, name: str) -> Tensor:
        return attrgetter(name)(self.model)  # type: ignore[no-any-return]

    def gathered(self) -> AbstractContextManager[None]:
        """Makes the parameters whole on every process while inside, where DeepSpeed ZeRO-3 shards them."""
        return gathered(self.parameters())

    @contextmanager
    def deferred(self, *, skip: bool) -> Iterator[Captured]:
        """Catches the states that reach the head while the model runs inside.

        The module's forward is replaced on the instance, so that it works inside of any wrapper.

        Args:
            skip: whether the projection is left out; the model then returns logits of no positions, ``[..., 0, V]``,
                so that what follows the head costs nothing and shapes still fit.

        Raises:
            RuntimeError: the model ran without its head.
        """
        captured = Captured()
        own = self.module.__dict__.get("forward")  # set by hooks of accelerate
        forward: Callable[[Tensor], Tensor] = self.module.forward
        columns = self.vocab_size

        @torch.compiler.disable  # type: ignore[untyped-decorator]
        def observe(states: Tensor) -> Tensor:
            captured.states = states
            return states.new_empty(*states.shape[:-2], 0, columns) if skip else forward(states)

        self.module.forward = observe
        try:
            yield captured
        finally:
            if own is None:
                del self.module.forward
            else:
                self.module.forward = own
        if not hasattr(captured, "states"):
            raise RuntimeError(f"{type(self.model).__name__} ran without calling its output embeddings.")


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[None]:
    """Makes `parameters` whole on every process while inside; does nothing where they already are.

    ZeRO-3 keeps small ones whole, and gathering those again would take them away from their module at the end.
    """
    missing = {
        id(parameter): parameter
        for parameter in parameters
        if getattr(parameter, "ds_id", None) is not None and parameter.ds_status.name != "AVAILABLE"  # type: ignore[attr-defined]
    }
    if not missing:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    return GatheredParameters(list(missing.values()))  # type: ignore[no-any-return]


def run_in_first_forward(modules: Sequence[nn.Module], function: Callable[[Tensor], _T]) -> Callable[[Tensor], _T]:
    """`function` as if it were the forward pass of `modules`, where ZeRO-3 shards their parameters.

    Its hooks then gather these again when the gradient comes back: one of a matrix has nowhere to go while the matrix
    is an empty shard.
    """
    for module in modules:
        for part in module.modules():
            if any(hasattr(parameter, "ds_id") for parameter in part.parameters(recurse=False)):
                function = functools.partial(_call_as, part, function)
    return function


def _call_as(module: nn.Module, function: Callable[[Tensor], _T], states: Tensor) -> _T:
    own = module.__dict__.pop("forward", None)

    def inside(states: Tensor) -> _T:
        restore()  # what runs inside calls the module itself
        return function(states)

    def restore() -> None:
        module.__dict__.pop("forward", None)
        if own is not None:
            module.forward = own

    module.forward = inside
    try:
        result: _T = module(states)
        return result
    finally:
        restore()


@contextmanager
def without_hooks(function: object) -> Iterator[None]:
    """Keeps ZeRO-3 from fetching and releasing a module's parameters while `gathered` holds them.

    Its hooks count a module's passes forward and backward; a gradient that is taken at once confuses them.
    """
    modules = list(function.modules()) if isinstance(function, nn.Module) else []
    if not any(hasattr(parameter, "ds_id") for module in modules for parameter in module.parameters(recurse=False)):
        yield
        return
    names = ("_forward_hooks", "_forward_pre_hooks")
    kept = [(module, name, getattr(module, name)) for module in modules for name in names]
    for module, name, _ in kept:
        setattr(module, name, OrderedDict())
    try:
        yield
    finally:
        for module, name, hooks in kept:
            setattr(module, name, hooks)
