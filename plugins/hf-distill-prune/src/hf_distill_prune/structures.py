"""Heads and columns of transformer blocks: where they are, and leaving some of them out.

What can go from an attention is a *group*: a head of keys and values with the heads of queries that it serves (where
each head has its own, simply a head). What can go from an MLP is a column: a neuron between its matrices.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D, prune_linear_layer

from hf_distill import BlockShape, blocks, num_blocks


@dataclass(frozen=True)
class Layout:
    """Where the matrices of a block are.

    Attributes:
        queries, keys, values: the matrices into attention; one path for all three where they are one matrix.
        attention_out: the matrix out of it.
        mlp_in: the matrices into the MLP.
        mlp_out: the matrix out of it.
        attention: what can be left out with the last head, and yields what `attention_out` takes; none in families
            where attention and projection are one module, or where a cache counts positions in every block.
    """

    queries: str
    keys: str
    values: str
    attention_out: str
    mlp_in: tuple[str, ...]
    mlp_out: str
    attention: str = ""

    @property
    def fused(self) -> bool:
        """Whether queries, keys and values come from one matrix."""
        return self.queries == self.keys

    def fits(self, block: nn.Module) -> bool:
        """Whether a block has all of these."""
        kept = not (self.attention and isinstance(_get(block, self.attention), NoAttention))
        paths = (self.queries, self.keys, self.values) if kept else ()
        return all(_get(block, path) is not None for path in (*paths, self.attention_out, *self.mlp_in, self.mlp_out))


LAYOUTS = (
    Layout(  # BERT, RoBERTa, XLM-R, CamemBERT, ELECTRA
        queries="attention.self.query",
        keys="attention.self.key",
        values="attention.self.value",
        attention_out="attention.output.dense",
        mlp_in=("intermediate.dense",),
        mlp_out="output.dense",
        attention="attention.self",
    ),
    Layout(  # DistilBERT
        queries="attention.q_lin",
        keys="attention.k_lin",
        values="attention.v_lin",
        attention_out="attention.out_lin",
        mlp_in=("ffn.lin1",),
        mlp_out="ffn.lin2",
    ),
    Layout(  # Llama, Mistral, Qwen2, Qwen3
        queries="self_attn.q_proj",
        keys="self_attn.k_proj",
        values="self_attn.v_proj",
        attention_out="self_attn.o_proj",
        mlp_in=("mlp.gate_proj", "mlp.up_proj"),
        mlp_out="mlp.down_proj",
    ),
    Layout(  # GPT-2
        queries="attn.c_attn",
        keys="attn.c_attn",
        values="attn.c_attn",
        attention_out="attn.c_proj",
        mlp_in=("mlp.c_fc",),
        mlp_out="mlp.c_proj",
    ),
)


class NoAttention(nn.Module):
    """In place of an attention without heads: nothing per token, so that the projection after it gives its bias."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """``[B, S, H]`` to ``[B, S, 0]``."""
        return hidden_states[..., :0], None


@dataclass(frozen=True)
class Block:
    """The structures of one block.

    Attributes:
        module: the block.
        layout: of its family.
        shape: of the blocks of the stock model.
    """

    module: nn.Module
    layout: Layout
    shape: BlockShape

    @property
    def heads_per_group(self) -> int:
        """Heads of queries that share keys and values."""
        return self.shape.heads // self.shape.key_value_heads

    @property
    def group_width(self) -> int:
        """Columns of `attention_out` that a group has."""
        return self.heads_per_group * self.shape.head_width

    @property
    def attention_out(self) -> nn.Module:
        """The matrix out of attention."""
        return self.module.get_submodule(self.layout.attention_out)

    @property
    def mlp_out(self) -> nn.Module:
        """The matrix out of the MLP."""
        return self.module.get_submodule(self.layout.mlp_out)

    @property
    def num_groups(self) -> int:
        """Groups that are there now."""
        return matrix(self.attention_out).shape[1] // self.group_width

    @property
    def num_columns(self) -> int:
        """Columns that are there now."""
        return matrix(self.mlp_out).shape[1]

    @property
    def fewest_groups(self) -> int:
        """How many must stay."""
        return 0 if self.layout.attention and not self.shape.causal else 1

    def keep(self, groups: Sequence[int], columns: Sequence[int]) -> None:
        """Leave out all groups and columns but these, which are counted among those that are there now."""
        self._keep_groups(list(groups))
        if len(columns) < self.num_columns:
            for path in self.layout.mlp_in:
                self._narrow(path, torch.tensor(columns, dtype=torch.long), 0)
            self._narrow(self.layout.mlp_out, torch.tensor(columns, dtype=torch.long), 1)

    def _keep_groups(self, groups: list[int]) -> None:
        layout, count = self.layout, self.num_groups
        if len(groups) == count:
            return
        ours, shared = expand(groups, self.group_width), expand(groups, self.shape.head_width)
        if not groups:
            _set(self.module, layout.attention, NoAttention())
        elif layout.fused:
            width = count * self.group_width
            self._narrow(layout.queries, torch.cat([ours, ours + width, ours + 2 * width]), 0)
            owner: Any = self.module.get_submodule(layout.queries.rpartition(".")[0])
            owner.split_size = len(ours)
        else:
            self._narrow(layout.queries, ours, 0)
            self._narrow(layout.keys, shared, 0)
            self._narrow(layout.values, shared, 0)
        self._narrow(layout.attention_out, ours, 1)

    def _narrow(self, path: str, index: Tensor, dim: int) -> None:
        _set(self.module, path, narrowed(self.module.get_submodule(path), index, dim))


def blocks_of(model: PreTrainedModel) -> list[Block]:
    """The blocks of a model with one stack, of a family that is known.

    Raises:
        ValueError: another family, or heads of other sizes than its configuration says.
    """
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} has two stacks of blocks; expected a model with one.")
    found, shape = blocks(model), BlockShape.of(model)
    layout = next((one for one in LAYOUTS if all(one.fits(block) for block in found)), None)
    if layout is None:
        raise ValueError(
            f"The blocks of {type(model).__name__} are of no known layout; there are those of BERT (RoBERTa, "
            "CamemBERT, ELECTRA), DistilBERT, Llama (Mistral, Qwen2, Qwen3) and GPT-2."
        )
    listed = [Block(block, layout, shape) for block in found]
    for index, block in enumerate(listed):
        _check(block, index)
    return listed


def keep_structures(model: PreTrainedModel, *, heads: Sequence[int], columns: Sequence[int]) -> None:
    """Leave out all but the first so many heads (of queries) and MLP columns of each block.

    A transform: by it a student of `ziplm`, whose weights are already those of what was kept, takes its shape again
    when it is loaded. The configuration keeps saying what the stock model has.

    Args:
        model: of a known family.
        heads: for each block, how many stay; whole groups of those that share keys and values.
        columns: for each block, how many stay.

    Raises:
        ValueError: another number of blocks, more than there are, or part of a group.
    """
    found = blocks_of(model)
    if not len(heads) == len(columns) == len(found):
        raise ValueError(
            f"heads has {len(heads)} numbers and columns {len(columns)}; expected one for each of {len(found)} blocks."
        )
    for index, (block, head, column) in enumerate(zip(found, heads, columns, strict=True)):
        groups, odd = divmod(head, block.heads_per_group)
        if odd or not block.fewest_groups <= groups <= block.num_groups or not 0 <= column <= block.num_columns:
            raise ValueError(
                f"Block {index} is to keep {head} heads and {column} columns; it has {block.num_groups} groups of "
                f"{block.heads_per_group} heads, of which {block.fewest_groups} must stay, and {block.num_columns} "
                "columns."
            )
    for block, head, column in zip(found, heads, columns, strict=True):
        block.keep(range(head // block.heads_per_group), range(column))


def layer_map_of(model: PreTrainedModel) -> list[int | None] | None:
    """Which block of which teacher each block was made from: what an earlier builder said, or its own."""
    known = getattr(model.config, "hf_distill", {}).get("layer_map")
    if model.config.is_encoder_decoder:
        return known
    return list(known or range(num_blocks(model)))


def matrix(module: nn.Module) -> Tensor:
    """The weight of a linear module as ``[out, in]``, whichever way round it is kept; a view."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.T if isinstance(module, Conv1D) else weight


def expand(structures: Sequence[int], width: int) -> Tensor:
    """The columns of structures of `width` columns each."""
    starts = torch.tensor(list(structures), dtype=torch.long) * width
    return (starts[:, None] + torch.arange(width)).flatten()


def narrowed(module: nn.Module, index: Tensor, dim: int) -> nn.Module:
    """A linear module with some of its outputs (`dim` 0) or inputs (1), of the same dtype and mode."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    result: nn.Module
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        if isinstance(module, Conv1D):
            result = _narrowed_conv(module, index, dim)
        else:
            assert isinstance(module, nn.Linear)
            result = prune_linear_layer(module, cast(torch.LongTensor, index), dim)
    return result.to(weight.dtype).train(module.training)


def _narrowed_conv(module: Conv1D, index: Tensor, dim: int) -> Conv1D:
    index = index.to(module.weight.device)
    weight = module.weight.detach().index_select(1 - dim, index)
    bias = module.bias.detach()
    result = Conv1D(weight.shape[1], weight.shape[0])
    result.weight = nn.Parameter(weight)
    result.bias = nn.Parameter((bias[index] if dim == 0 else bias).clone())
    return result


def _check(block: Block, index: int) -> None:
    layout = block.layout
    if isinstance(_get(block.module, layout.attention) if layout.attention else None, NoAttention):
        return
    inner = block.num_groups * block.group_width
    shared = block.num_groups * block.shape.head_width
    wanted: Mapping[str, int] = {layout.queries: inner, layout.keys: shared, layout.values: shared}
    if layout.fused:
        wanted = {layout.queries: 3 * inner}
    for path, size in wanted.items():
        if (found := matrix(block.module.get_submodule(path)).shape[0]) != size:
            raise ValueError(
                f"{path} of block {index} has {found} rows; {size} are expected of {block.num_groups} groups of "
                f"{block.heads_per_group} heads. The family is like none of those that are known."
            )


def _get(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _set(module: nn.Module, path: str, value: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(module.get_submodule(owner), name, value)
