"""How long things take on this machine: a function, a model, and the blocks of a transformer by their size.

    table = measure_blocks(model, batch_size=8, length=128)
    table.attention[4], table.mlp[1024]          # seconds of one attention with 4 heads, one MLP 1,024 columns wide
    table.seconds(heads=[4, 12, 0], columns=[1024, 3072, 512])  # of a model pruned to this
    table.speed_up(heads=..., columns=...)

Simulated speed is no speed: every number here is a median of runs that were made. What is not in the table lies on the
line between its neighbours.
"""

from __future__ import annotations

import bisect
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.activations import ACT2FN

from ..models.layers import blocks, hidden_width, is_encoder_decoder, stack_config

_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "decoder_attention_heads")
_INNER = ("intermediate_size", "d_ff", "n_inner", "ffn_dim", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim")
_ACTIVATION = ("hidden_act", "activation_function", "hidden_activation", "activation", "dense_act_fn")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
_GATES = ("gate_proj", "gate_up_proj", "wi_1", "Wi")  # an MLP with two matrices in, one of which gates the other


def measure_seconds(
    function: Callable[[], Any], *, device: torch.device | str = "cpu", warm_up: int = 3, repeats: int = 10
) -> float:
    """The median of how long `function` takes, in seconds; see `measure_runs`."""
    return statistics.median(measure_runs(function, device=device, warm_up=warm_up, repeats=repeats))


def measure_runs(
    function: Callable[[], Any], *, device: torch.device | str = "cpu", warm_up: int = 3, repeats: int = 10
) -> list[float]:
    """How long each run of `function` takes, in seconds, after runs that do not count.

    Args:
        function: what is timed; without gradients.
        device: where it works; what was queued there is waited for before and after each run.
        warm_up: runs that do not count, at least one.
        repeats: runs that do.
    """
    if repeats < 1 or warm_up < 1:
        raise ValueError(f"warm_up is {warm_up} and repeats {repeats}; expected at least one of each.")
    wait = _waiting(torch.device(device))
    seconds = []
    with torch.inference_mode():
        for index in range(warm_up + repeats):
            wait()
            start = time.perf_counter()
            function()
            wait()
            if index >= warm_up:
                seconds.append(time.perf_counter() - start)
    return seconds


@dataclass(frozen=True)
class BlockShape:
    """The sizes of a transformer block that decide how long it takes.

    Attributes:
        width: of the hidden states, H.
        heads: of attention.
        head_width: of each head.
        key_value_heads: heads of keys and values, of which each serves as many of queries.
        columns: the inner width of the MLP.
        gated: whether the MLP has a second matrix in that gates the first.
        causal: whether attention looks back only.
        activation: of the MLP, by its name in transformers.
    """

    width: int
    heads: int
    head_width: int
    key_value_heads: int
    columns: int
    gated: bool = False
    causal: bool = False
    activation: str = "gelu"

    @classmethod
    def of(cls, model: PreTrainedModel, stack: str = "") -> BlockShape:
        """The shape of the blocks of a model, from its configuration and modules.

        Raises:
            ValueError: the configuration does not say how many heads or columns there are, or there are experts.
        """
        config = stack_config(model, stack)
        width = hidden_width(model, stack)
        heads, columns = _first(config, _HEADS), _first(config, _INNER)
        if columns is None and hasattr(config, "n_inner"):
            columns = 4 * width  # GPT-2 writes its usual inner width as None
        if heads is None or columns is None:
            looked = ", ".join(_HEADS if heads is None else _INNER)
            raise ValueError(
                f"The configuration of {type(model).__name__} has none of {looked}; give shape=BlockShape(...)."
            )
        if (_first(config, _EXPERTS) or 1) > 1:
            raise ValueError(f"{type(model).__name__} routes to experts, of which a table of columns says nothing.")
        names = {name.rpartition(".")[2] for name, _ in blocks(model, stack).named_modules()}
        activation = next((one for name in _ACTIVATION if isinstance(one := getattr(config, name, None), str)), "gelu")
        return cls(
            width=width,
            heads=heads,
            head_width=_first(config, ("head_dim", "d_kv")) or width // heads,
            key_value_heads=_first(config, ("num_key_value_heads",)) or heads,
            columns=columns,
            gated=not names.isdisjoint(_GATES),
            causal=stack == "decoder" or (model.can_generate() and not stack),
            activation=activation if activation in ACT2FN else "gelu",
        )


@dataclass(frozen=True)
class LatencyTable:
    """Measured seconds of the parts of a model by their size; a part of size 0 is left out and takes none.

    Attributes:
        attention: seconds of one attention by its number of heads.
        mlp: seconds of one MLP by its number of columns.
        num_blocks: how many of each the model has.
        rest: seconds of everything else (embeddings, norms, head): what the whole model takes beyond its parts.
        batch_size: of the inputs, B.
        length: of the inputs, S.
        device: where it was measured.
        dtype: in which numbers.
    """

    attention: Mapping[int, float]
    mlp: Mapping[int, float]
    num_blocks: int
    rest: float
    batch_size: int
    length: int
    device: str
    dtype: str

    def seconds(self, heads: Sequence[int], columns: Sequence[int]) -> float:
        """How long a model takes whose blocks have so many heads and columns, one number of each for every block."""
        parts = [_between(self.attention, one) for one in heads] + [_between(self.mlp, one) for one in columns]
        return self.rest + sum(parts)

    def speed_up(self, heads: Sequence[int], columns: Sequence[int]) -> float:
        """How many times as fast as the whole model that is; infinitely, where nothing is left that takes time."""
        whole = self.seconds([max(self.attention)] * self.num_blocks, [max(self.mlp)] * self.num_blocks)
        seconds = self.seconds(heads, columns)
        return whole / seconds if seconds > 0 else math.inf

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        values = asdict(self)
        return {**values, **{name: {str(k): v for k, v in values[name].items()} for name in ("attention", "mlp")}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatencyTable:
        """From what `to_dict` gave."""
        tables = {name: {int(k): float(v) for k, v in values[name].items()} for name in ("attention", "mlp")}
        return cls(**{**values, **tables})


def measure_blocks(
    model: PreTrainedModel | None = None,
    *,
    shape: BlockShape | None = None,
    num_blocks: int | None = None,
    inputs: Mapping[str, Tensor] | None = None,
    stack: str = "",
    heads: Sequence[int] | None = None,
    columns: Sequence[int] | None = None,
    batch_size: int = 1,
    length: int = 128,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    warm_up: int = 3,
    repeats: int = 10,
) -> LatencyTable:
    """Measure attentions with h heads and MLPs with c columns, as many sizes of each as are asked for.

    Blocks of these sizes are made for it, with the projections, the kernel of `scaled_dot_product_attention` and the
    activation of the model; a norm counts among the rest.

    Args:
        model: whose blocks are measured, and the rest of it: what it takes beyond `num_blocks` whole blocks.
        shape: in place of that of the model.
        num_blocks: in place of that of the model.
        inputs: of the model, to measure it with; token ids of B x S by default.
        stack: "encoder" or "decoder" of an encoder-decoder, whose other stack then counts among the rest.
        heads: numbers of heads; all from 1 to those of the shape by default.
        columns: numbers of columns; tenths of those of the shape by default.
        batch_size: B.
        length: S.
        device: by default the model's.
        dtype: by default the model's.
        warm_up: runs of each that do not count.
        repeats: runs of each, of which the median is taken.

    Raises:
        ValueError: neither a model nor a shape, a family whose shape is not known, or sizes that it does not have.
    """
    if shape is None:
        if model is None:
            raise ValueError("Nothing to measure; give a model or a shape.")
        shape = BlockShape.of(model, stack)
    device = torch.device(device or (model.device if model is not None else "cpu"))
    dtype = dtype or (model.dtype if model is not None else torch.float32)
    heads = _sizes(shape.heads, heads, "heads") or range(1, shape.heads + 1)
    columns = _sizes(shape.columns, columns, "columns") or [max(shape.columns * n // 10, 1) for n in range(1, 11)]
    options: Any = {"device": device, "dtype": dtype}
    hidden = torch.randn(batch_size, length, shape.width, **options)
    timing: Any = {"device": device, "warm_up": warm_up, "repeats": repeats}
    attention, mlp = {0: 0.0}, {0: 0.0}
    for count in sorted({*heads, shape.heads}):
        attention[count] = measure_seconds(partial(_Attention(shape, count).to(**options), hidden), **timing)
    for count in sorted({*columns, shape.columns}):
        mlp[count] = measure_seconds(partial(_MLP(shape, count).to(**options), hidden), **timing)
    depth, rest = num_blocks or 1, 0.0
    if model is not None:
        depth = num_blocks or len(blocks(model, stack))
        inputs = sample_inputs(model, batch_size=batch_size, length=length) if inputs is None else inputs
        whole = measure_seconds(lambda: model(**inputs), **timing)
        rest = max(whole - depth * (attention[shape.heads] + mlp[shape.columns]), 0.0)
    return LatencyTable(attention, mlp, depth, rest, batch_size, length, str(device), str(dtype).removeprefix("torch."))


def sample_inputs(model: PreTrainedModel, *, batch_size: int = 1, length: int = 128) -> dict[str, Tensor]:
    """Inputs without meaning, of the sizes that a model takes, on its device.

    Args:
        model: of text (B x S token ids; an encoder-decoder gets as many in its decoder) or images.
        batch_size: B.
        length: S; of images, their configuration decides.

    Raises:
        ValueError: a model of something else, or a length that is beyond its positions.
    """
    config: Any = model.config
    device = model.device
    if model.main_input_name == "pixel_values":
        size = config.image_size if isinstance(config.image_size, int) else max(config.image_size)
        return {"pixel_values": torch.zeros(batch_size, config.num_channels, size, size, device=device)}
    if model.main_input_name != "input_ids":
        raise ValueError(f"{type(model).__name__} takes {model.main_input_name}; give inputs of your own.")
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if isinstance(positions, int) and 0 < positions < length:
        raise ValueError(f"length is {length}; {type(model).__name__} has {positions} positions.")
    # Not the first ids, which mean padding and the like.
    ids = torch.full((batch_size, length), text.vocab_size - 1, device=device)
    return {"input_ids": ids, **({"decoder_input_ids": ids} if is_encoder_decoder(model) else {})}


class _Attention(nn.Module):
    def __init__(self, shape: BlockShape, heads: int) -> None:
        super().__init__()
        # Heads of keys and values go when the last head of queries that they serve has gone.
        self.groups = -(-heads * shape.key_value_heads // shape.heads)
        self.causal, width = shape.causal, shape.head_width
        self.query = nn.Linear(shape.width, heads * width)
        self.key, self.value = (nn.Linear(shape.width, self.groups * width) for _ in range(2))
        self.out = nn.Linear(heads * width, shape.width)
        self.num_heads, self.width = heads, width

    def forward(self, hidden: Tensor) -> Tensor:
        batch, length, _ = hidden.shape
        query = self.query(hidden).view(batch, length, self.num_heads, self.width).transpose(1, 2)
        key, value = (
            one(hidden).view(batch, length, self.groups, self.width).transpose(1, 2) for one in (self.key, self.value)
        )
        if self.groups != self.num_heads:
            repeats = -(-self.num_heads // self.groups)
            key, value = (one.repeat_interleave(repeats, 1)[:, : self.num_heads] for one in (key, value))
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        result: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, length, -1))
        return result


class _MLP(nn.Module):
    def __init__(self, shape: BlockShape, columns: int) -> None:
        super().__init__()
        self.first = nn.Linear(shape.width, columns)
        self.gate = nn.Linear(shape.width, columns) if shape.gated else None
        self.second = nn.Linear(columns, shape.width)
        self.activation = ACT2FN[shape.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.activation(self.first(hidden))
        if self.gate is not None:
            inner = inner * self.gate(hidden)
        result: Tensor = self.second(inner)
        return result


def _sizes(whole: int, wanted: Sequence[int] | None, what: str) -> list[int]:
    found = [one for one in wanted or [] if one != 0]
    if any(one < 1 or one > whole for one in found):
        raise ValueError(f"{what} is {list(wanted or [])}; the model has {whole}, so 0 to {whole} can stay.")
    return found


def _between(table: Mapping[int, float], size: int) -> float:
    if size in table:
        return table[size]
    known = sorted(table)
    place = bisect.bisect(known, size)
    if not 0 < place < len(known):
        raise ValueError(f"The table has sizes from {known[0]} to {known[-1]}, and none for {size}.")
    low, high = known[place - 1], known[place]
    share = (size - low) / (high - low)
    return (1 - share) * table[low] + share * table[high]


def _first(config: Any, names: Sequence[str]) -> int | None:
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), None)


def _waiting(device: torch.device) -> Callable[[], None]:
    if device.type == "cpu":
        return lambda: None
    accelerator: Any = getattr(torch, device.type)
    return lambda: accelerator.synchronize(device)
