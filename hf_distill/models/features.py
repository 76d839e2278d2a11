"""Named features of any model, captured while it runs, without changing what it computes.

    taps = Taps(model, ["hidden.-1", "attention.0"])
    if taps.requires_eager:
        ensure_eager(model)
    with taps.capture() as features:
        model(**inputs)          # or a DDP / DeepSpeed wrapper around it
    features["hidden.-1"]        # [B, S, H], part of the autograd graph

Shape letters: B examples, S positions, H hidden width, h heads, d width of a head, N number of blocks.

=================== ================================================================================================
"hidden.<i>"        ``[B, S, H]``; i = 0: input of the first block; i > 0: output of block i - 1. "hidden.-1" is the
                    *raw* output of the last block, before any final norm.
"attention.<i>"     ``[B, h, S, S]``: attention probabilities of block i, before dropout. Needs eager attention.
"scores.<i>"        ``[B, h, S, S]``: what goes into that softmax: scaled, soft-capped, biased and masked. Masked places
                    hold the model's own very negative number. Needs eager attention.
"query.<i>", ...    ``[B, h, S, d]``: output of block i's query, "key" or "value" projection, split into heads, before
                    rotary embedding and norms. With grouped queries key and value have fewer heads.
"router.<i>"        router logits of a mixture-of-experts block as its router gives them, mostly ``[B * S, experts]``.
"module:<path>"     output of any module (of a tuple or output object its first tensor).
"input:<path>"      input of any module (its first tensor): of a classifier's last layer the features that it reads.
=================== ================================================================================================

Negative i count from the end. Encoder-decoders: "encoder.hidden.3", "decoder.attention.0" (the decoder's
self-attention). Within one `capture`, a second forward pass replaces what the first one left.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from .layers import blocks, layer_map, match_layers, num_blocks, stack_config, stack_module, unwrap

__all__ = ["Taps", "blocks", "ensure_eager", "layer_map", "match_layers", "num_blocks"]

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?:(encoder|decoder)\.)?(hidden|attention|scores|query|key|value|router)\.(-?\d+)")
_FORMS = '"hidden.<i>", "attention.<i>", "scores.<i>", "query.<i>", "key.<i>", "value.<i>", "router.<i>" (before them "encoder." or "decoder." for encoder-decoders) or "module:<path>", "input:<path>"'  # noqa: E501

_SEPARATE = {
    "query": ("q_proj", "query", "q", "q_lin", "query_proj", "q_linear", "linear_q", "to_q"),
    "key": ("k_proj", "key", "k", "k_lin", "key_proj", "k_linear", "linear_k", "to_k"),
    "value": ("v_proj", "value", "v", "v_lin", "value_proj", "v_linear", "linear_v", "to_v"),
}
# All queries, then all keys, then all values (GPT-2, Phi-3, ModernBERT, BLIP); or the same per group of heads that
# share a key (GPT-NeoX, BLOOM, Falcon).
_CONCATENATED = ("c_attn", "qkv_proj", "Wqkv", "qkv")
_GROUPED = ("query_key_value",)
_GROUPED_FAMILIES = ("gpt_bigcode",)
_UNKNOWN_LAYOUT_FAMILIES = ("codegen",)
_HEAD_WIDTH_NAMES = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")

_SOFTMAXES = (torch.softmax, torch.Tensor.softmax, nn.functional.softmax)


class Taps:
    """Captures the named features of one model.

    Args:
        model: the model, wrapped or not; features are found in the innermost one.
        names: see the top of this file.

    Raises:
        ValueError: a name that is malformed or that the model does not have; says what it has.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self.names = tuple(dict.fromkeys(names))
        self._model = unwrap(model)
        self._taps = [_resolve(self._model, name) for name in self.names]

    @property
    def requires_eager(self) -> bool:
        """Whether attention must be computed in the open: see `ensure_eager`."""
        return any(isinstance(tap, _SoftmaxTap) for tap in self._taps)

    @contextmanager
    def capture(self) -> Iterator[dict[str, Tensor]]:
        """Fills the dict with features while the model runs inside the `with` block.

        Tensors are part of the autograd graph; for a teacher, run it under `torch.no_grad`. What gradient checkpointing
        computes again in the backward pass is not captured again.

        Raises:
            RuntimeError: the model ran or the block ended without a feature, or the feature has no gradient because
                of reentrant checkpointing.
        """
        features: dict[str, Tensor] = {}
        keep = partial(self._keep, features, grad_enabled=torch.is_grad_enabled())
        handles = [handle for tap in self._taps for handle in tap.attach(keep)]
        try:
            yield features
        finally:
            for handle in handles:
                handle.remove()
        if missing := [name for name in self.names if name not in features]:
            raise RuntimeError(
                f"Nothing was captured for {', '.join(missing)}: the modules did not run inside `with taps.capture()`. "
                "Run the model inside it, a compiled one from its first run on, and name only modules that are called."
            )

    def _keep(self, features: dict[str, Tensor], name: str, tensor: Tensor, *, grad_enabled: bool) -> None:
        if grad_enabled and not torch.is_grad_enabled() and any(map(_is_checkpointing, self._model.modules())):
            raise RuntimeError(
                f'"{name}" was computed without gradients inside a checkpointed block; set '
                'gradient_checkpointing_kwargs={"use_reentrant": False}.'
            )
        features[name] = tensor


def ensure_eager(model: nn.Module, role: str = "model") -> None:
    """Have attention computed in the open, where its scores and probabilities can be seen.

    Args:
        model: changed in place; its outputs change by rounding only.
        role: what to call it in the log, "teacher" for instance.

    Raises:
        ValueError: the model cannot be switched.
    """
    model = unwrap(model)
    if not hasattr(model, "set_attn_implementation") or _implementations(model) == {"eager"}:
        return
    before = ", ".join(sorted(_implementations(model)))
    model.set_attn_implementation("eager")  # type: ignore[operator]
    if _implementations(model) != {"eager"}:
        raise ValueError(
            f"{type(model).__name__} ({role}) cannot be switched from {before} to eager attention, which its attention "
            'maps need. Load it with attn_implementation="eager" or use a loss that does not read attention maps.'
        )
    logger.warning("Attention of the %s set from %s to eager: a loss reads its attention maps.", role, before)


def _implementations(model: nn.Module) -> set[str]:
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    return {config._attn_implementation for config in configs if hasattr(config, "_attn_implementation")}


Keep = Callable[[str, Tensor], None]


class _Tap(Protocol):
    def attach(self, keep: Keep) -> list[RemovableHandle]: ...


@dataclass
class _OutputTap:
    """Keeps what `read` makes of a module's output."""

    name: str
    module: nn.Module
    read: Callable[[Any], Tensor | None]

    def attach(self, keep: Keep) -> list[RemovableHandle]:
        def after(module: nn.Module, args: Any, output: Any) -> None:
            if _in_backward():
                return
            if (tensor := self.read(output)) is None:
                raise RuntimeError(
                    f'"{self.name}": {type(module).__name__} gave no tensor but {type(output).__name__}.'
                )
            keep(self.name, tensor)

        return [self.module.register_forward_hook(after)]


@dataclass
class _InputTap:
    """Keeps the first tensor that goes into a module: the hidden states, of a block."""

    name: str
    module: nn.Module

    def attach(self, keep: Keep) -> list[RemovableHandle]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if _in_backward():
                return
            if (tensor := _first_tensor([*args, kwargs.get("hidden_states"), *kwargs.values()])) is None:
                raise RuntimeError(f'"{self.name}": {type(module).__name__} was called without a tensor.')
            keep(self.name, tensor)

        return [self.module.register_forward_pre_hook(before, with_kwargs=True)]


@dataclass
class _SoftmaxTap:
    """Keeps the input or the output of the one softmax that an attention module computes."""

    name: str
    module: nn.Module
    wants_scores: bool

    def attach(self, keep: Keep) -> list[RemovableHandle]:
        running: list[_SoftmaxRecorder] = []

        def before(module: nn.Module, args: Any) -> None:
            if not _in_backward():
                running.append(_SoftmaxRecorder())
                running[-1].__enter__()  # type: ignore[no-untyped-call]

        def after(module: nn.Module, args: Any, output: Any) -> None:
            if not running:
                return
            recorder = running.pop()
            recorder.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            if output is None:  # the forward pass raised; that error is the one to show
                return
            if len(recorder.seen) != 1:
                raise RuntimeError(
                    f'"{self.name}": {type(module).__name__} computed {len(recorder.seen)} attention softmaxes in the '
                    f"open instead of one; its attention is {', '.join(_implementations(module)) or 'its own'}. Call "
                    "hf_distill.models.features.ensure_eager(model) first; where it is eager already, the model is "
                    "not supported."
                )
            keep(self.name, recorder.seen[0][0 if self.wants_scores else 1])

        # Two taps on one module must leave in the reverse order of entering; always_call: also after an error.
        return [
            self.module.register_forward_pre_hook(before),
            self.module.register_forward_hook(after, prepend=True, always_call=True),
        ]


class _SoftmaxRecorder(TorchFunctionMode):
    """Notes input and output of every softmax over four dimensions, and computes it as it would have been."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _SOFTMAXES and result.dim() == 4:
            self.seen.append((args[0] if args else (kwargs or {})["input"], result))
        return result


def _in_backward() -> bool:
    """Whether checkpointing is computing a block again: torch.utils.checkpoint asks the same question this way."""
    return bool(torch._C._current_graph_task_id() != -1)


def _is_checkpointing(module: nn.Module) -> bool:
    return bool(getattr(module, "gradient_checkpointing", False))


def _resolve(model: nn.Module, name: str) -> _Tap:
    if name.startswith("module:"):
        return _OutputTap(name, _module_at(model, name.removeprefix("module:")), _first_tensor)
    if name.startswith("input:"):
        return _InputTap(name, _module_at(model, name.removeprefix("input:")))
    if (match := _NAME.fullmatch(name)) is None:
        raise ValueError(f"Feature {name!r}; expected {_FORMS}.")
    stack, kind, index = match[1] or "", match[2], int(match[3])
    layers = blocks(model, stack)
    num_features = len(layers) + (kind == "hidden")
    if not -num_features <= index < num_features:
        raise ValueError(
            f"Feature {name!r} of {type(model).__name__}, which has {len(layers)} blocks; "
            f'"{kind}" runs from 0 to {num_features - 1} (or -{num_features} to -1).'
        )
    index %= num_features
    if kind == "hidden":
        return _OutputTap(name, layers[index - 1], _first_tensor) if index else _InputTap(name, layers[0])
    if kind == "router":
        return _router(model, name, stack, layers, index)
    if kind in ("attention", "scores"):
        return _SoftmaxTap(name, _attention(name, layers, index), wants_scores=kind == "scores")
    return _projection(name, kind, _attention(name, layers, index), stack_config(model, stack))


def _module_at(model: nn.Module, path: str) -> nn.Module:
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if path in modules:
        return modules[path]
    near = difflib.get_close_matches(path, modules, n=5, cutoff=0.3)
    raise ValueError(f"{type(model).__name__} has no module {path!r}; near names: {', '.join(near) or 'none'}.")


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output
    return next((v for v in values if isinstance(v, Tensor)), None) if isinstance(values, Iterable) else None


def _item(output: Any, *, index: int) -> Tensor | None:
    return output[index] if isinstance(output, tuple | list) else _first_tensor(output)


def _child(module: nn.Module, names: tuple[str, ...]) -> nn.Module | None:
    return next((child for name, child in module.named_children() if name in names), None)


def _find_attention(block: nn.Module) -> nn.Module | None:
    """The first module in the block that owns query, key and value projections: the decoder's self-attention too."""
    for module in block.modules():
        if _child(module, _CONCATENATED + _GROUPED) or all(_child(module, names) for names in _SEPARATE.values()):
            return module
    return None


def _attention(name: str, layers: nn.ModuleList, index: int) -> nn.Module:
    if (attention := _find_attention(layers[index])) is not None:
        return attention
    having = [str(i) for i, block in enumerate(layers) if _find_attention(block) is not None]
    raise ValueError(
        f"Feature {name!r}: block {index} ({type(layers[index]).__name__}) has no attention whose projections are "
        f'known; blocks that have: {", ".join(having) or "none"}. Name a module by its path instead ("module:a.b.c").'
    )


def _projection(name: str, kind: str, attention: nn.Module, config: Any) -> _OutputTap:
    num_heads = int(config.num_attention_heads)
    widths = (getattr(owner, field, None) for owner in (attention, config) for field in _HEAD_WIDTH_NAMES)
    head_width = next((w for w in widths if isinstance(w, int)), None) or int(config.hidden_size) // num_heads
    if (module := _child(attention, _SEPARATE[kind])) is not None:
        return _OutputTap(name, module, partial(_split_heads, head_width=head_width))
    if config.model_type in _UNKNOWN_LAYOUT_FAMILIES:
        raise ValueError(f"Feature {name!r}: how {config.model_type} lays out its fused projection is not supported.")
    grouped = _child(attention, _GROUPED) is not None or config.model_type in _GROUPED_FAMILIES
    module = _child(attention, _CONCATENATED + _GROUPED)
    assert module is not None  # _find_attention chose this module for it
    split = partial(_split_fused, kind=kind, num_heads=num_heads, head_width=head_width, grouped=grouped)
    return _OutputTap(name, module, split)


def _split_heads(output: Tensor, *, head_width: int) -> Tensor:
    """``[B, S, h * d]`` to ``[B, h, S, d]``."""
    return output.view(*output.shape[:-1], -1, head_width).transpose(1, 2)


def _split_fused(output: Tensor, *, kind: str, num_heads: int, head_width: int, grouped: bool) -> Tensor:
    """One of query, key and value out of a fused projection, as ``[B, h, S, d]``."""
    num_key_heads = (output.shape[-1] // head_width - num_heads) // 2
    num_groups = num_key_heads if grouped else 1
    sizes = [num_heads // num_groups, num_key_heads // num_groups, num_key_heads // num_groups]
    heads = output.view(*output.shape[:-1], num_groups, sum(sizes), head_width)  # [B, S, groups, heads in a group, d]
    part = torch.split(heads, sizes, dim=-2)[("query", "key", "value").index(kind)]
    return part.flatten(-3, -2).transpose(1, 2)


def _router(model: nn.Module, name: str, stack: str, layers: nn.ModuleList, index: int) -> _OutputTap:
    """The router that transformers itself records for ``output_router_logits``."""
    root = stack_module(model, stack)
    recorders = (getattr(module, "_can_record_outputs", None) or {} for module in root.modules())
    recorder = next((found["router_logits"] for found in recorders if "router_logits" in found), None)
    target = getattr(recorder, "target_class", recorder)
    if target is not None:
        for module in layers[index].modules():
            if isinstance(module, target):
                return _OutputTap(name, module, partial(_item, index=getattr(recorder, "index", 0)))
    raise ValueError(
        f"Feature {name!r}: block {index} ({type(layers[index]).__name__}) has no router that transformers knows of; "
        'name it by its path instead ("module:a.b.c").'
    )
