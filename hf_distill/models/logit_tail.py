"""What a model's own forward pass does to its logits after the output head: soft-caps, scales, added biases, casts.

The operations are recorded, not looked up by name: the model is rebuilt on the meta device from its configuration (no
memory, no values, and the real model, which may be sharded, stays untouched), its body is replaced by one that returns
hidden states of the right shape, and one forward pass shows every torch function between the head and the logits.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput


class UnsupportedHead(Exception):
    """The logits of a model cannot be had from its head and recorded operations; the message says why."""


class _Logits:
    """Stands for the logits in a recorded call."""


class _Named(NamedTuple):
    """Stands for a parameter or buffer of the model in a recorded call."""

    name: str


class Operation(NamedTuple):
    """One torch function between the head and the finished logits, with placeholders for tensors."""

    function: Callable[..., Tensor]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def tensor_names(self) -> list[str]:
        """The parameters and buffers of the model that it reads."""
        return [value.name for value in (*self.args, *self.kwargs.values()) if isinstance(value, _Named)]

    def __call__(self, logits: Tensor, find: Callable[[str], Tensor]) -> Tensor:
        """Apply it to `logits`; `find` gives the model's parameters and buffers by name."""

        def resolve(value: Any) -> Any:
            if isinstance(value, _Logits):
                return logits
            return find(value.name) if isinstance(value, _Named) else value

        return self.function(*map(resolve, self.args), **{key: resolve(value) for key, value in self.kwargs.items()})


def trace_logit_ops(model: PreTrainedModel) -> tuple[Operation, ...]:
    """What the forward pass of `model`'s class does to the output of its head, in order.

    Args:
        model: an unwrapped model with output embeddings; read for its class, configuration and dtype only.

    Raises:
        UnsupportedHead: the class cannot be rebuilt or run, its logits do not come from one call of the head, or
            something beside parameters, buffers and constants goes into them.
    """
    try:
        replica = _on_meta(model)
        recorder = _Recorder(replica)
        ids = torch.ones(1, 2, dtype=torch.long, device="meta")
        inputs = {"decoder_input_ids": ids} if replica.config.is_encoder_decoder else {}
        width = _replace_body(replica, recorder)
        with torch.no_grad(), recorder:
            logits = replica(input_ids=ids, **inputs)["logits"]
    except Exception as error:  # whatever a model's own code raises when it is run like this
        raise UnsupportedHead(f"{type(model).__name__} could not be run on the meta device: {error}") from error
    tail = recorder.chain(logits)
    _check_rows_apart(tail, replica, width=width)
    return tail


def _on_meta(model: PreTrainedModel) -> PreTrainedModel:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(model.dtype)  # casts in the tail must be those of the real model
    try:
        with torch.device("meta"):
            replica: PreTrainedModel = type(model)(copy.deepcopy(model.config)).eval()
        # A class may name another device, and `torch.linspace` ignores the one above for the rest of a process whose
        # first use of the meta device was inside `from_pretrained` (torch 2.13 with transformers 5.x).
        nn.Module.to(replica, "meta")
        return replica
    finally:
        torch.set_default_dtype(previous)


class _AnyOutput(BaseModelOutput):
    """What a body returns: hidden states, and None under any other name."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)


def _replace_body(replica: PreTrainedModel, recorder: _Recorder) -> int:
    """Let the head tell `recorder`, and the models inside that do not hold it return hidden states at once.

    Their code may depend on values (masks of packed sequences, routing of experts), which the meta device has not.
    """
    head = replica.get_output_embeddings()
    width = head.weight.shape[0]

    def body(*args: Any, **kwargs: Any) -> _AnyOutput:
        shape = 1, 2, replica.config.get_text_config(decoder=True).hidden_size
        return _AnyOutput(last_hidden_state=torch.empty(shape, dtype=replica.dtype, device="meta"))

    def project(states: Tensor) -> Tensor:
        logits = states.new_empty(*states.shape[:-1], width)
        recorder.begin(logits)
        return logits

    for module in replica.modules():
        if isinstance(module, PreTrainedModel) and not any(child is head for child in module.modules()):
            module.forward = body
    head.forward = project
    return int(width)


class _Recorder(TorchFunctionMode):
    """Follows the head's output through every torch function that keeps its shape."""

    def __init__(self, replica: nn.Module) -> None:
        super().__init__()
        self.class_name = type(replica).__name__
        self.names = {id(tensor): name for name, tensor in (*replica.named_parameters(), *replica.named_buffers())}
        self.chains: dict[int, tuple[Operation, ...] | str] = {}  # a text says why the tensor cannot be recomputed
        self.alive: list[Tensor] = []  # so that no id is used twice
        self.num_calls = 0

    def begin(self, output: Tensor) -> None:
        self.num_calls += 1
        self._follow(output, ())

    def chain(self, logits: Tensor) -> tuple[Operation, ...]:
        found = self.chains.get(id(logits), "they are not its output, with at most elementwise operations after it")
        if self.num_calls != 1:
            found = f"its output embeddings ran {self.num_calls} times in one forward pass"
        if isinstance(found, str):
            raise UnsupportedHead(f"The logits of {self.class_name} do not follow from its output embeddings: {found}.")
        return found

    def _follow(self, tensor: Tensor, chain: tuple[Operation, ...] | str) -> None:
        self.alive.append(tensor)
        self.chains[id(tensor)] = chain

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        values = [*args, *kwargs.values()]
        tracked = [value for value in values if isinstance(value, Tensor) and id(value) in self.chains]
        if not tracked:
            return result
        source = tracked[0]
        if func is Tensor.__setitem__:
            self._follow(source, "some of their elements are overwritten")
        elif isinstance(result, Tensor) and result.shape == source.shape:
            self._follow(result, self._extend(func, args, kwargs, source))
        return result

    def _extend(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], source: Tensor
    ) -> tuple[Operation, ...] | str:
        chain = self.chains[id(source)]
        values = [*args, *kwargs.values()]
        if isinstance(chain, str):
            return chain
        if func is Tensor.to and all(value is source or isinstance(value, torch.device) for value in values):
            return chain  # the rows stay on their own device
        for value in values:
            if isinstance(value, Tensor) and value is not source and id(value) not in self.names:
                return f"{resolve_name(func)} mixes them with a tensor that is not of the model"

        def placeholder(value: Any) -> Any:
            if value is source:
                return _Logits()
            return _Named(self.names[id(value)]) if isinstance(value, Tensor) else value

        placed = {key: placeholder(value) for key, value in kwargs.items()}
        return (*chain, Operation(_out_of_place(func), tuple(map(placeholder, args)), placed))


def _out_of_place(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function that returns what `func` would have written into its first argument."""
    name = getattr(func, "__name__", "")
    if name.startswith("__i") and name.endswith("__") and hasattr(Tensor, f"__{name[3:]}"):
        return getattr(Tensor, f"__{name[3:]}")  # type: ignore[no-any-return]
    if name.endswith("_") and not name.endswith("__"):
        return getattr(Tensor, name[:-1])  # type: ignore[no-any-return]
    return func


def _check_rows_apart(tail: tuple[Operation, ...], replica: nn.Module, *, width: int) -> None:
    """Make sure that each row of logits depends on itself alone, by running the tail on rows in two orders."""

    def stand_in(name: str) -> Tensor:
        like = attrgetter(name)(replica)
        return torch.linspace(0.5, 1.5, like.numel(), dtype=like.dtype).view(like.shape)

    dtype: torch.dtype = replica.dtype  # type: ignore[assignment]
    nested = torch.linspace(-2, 2, 6 * width, dtype=dtype).view(2, 3, width)
    flat = nested.view(6, width).flip(0)
    for operation in tail:
        nested, flat = operation(nested, stand_in), operation(flat, stand_in)
    if not torch.allclose(nested.reshape(6, width).flip(0), flat):
        raise UnsupportedHead(f"The forward pass of {type(replica).__name__} mixes the logits of different positions.")
