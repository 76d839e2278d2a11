"""ZipLM: a student of fewer heads and MLP columns, chosen to be so many times as fast and to lose least.

    build_student("finetuned", "ziplm", plugins=Plugins(["prune"]), speed_up=2, texts=["train.txt"])

or, with calibration inputs of one's own,

    build_student(model, lambda teacher: prune(teacher, batches, speed_up=2))
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill import LatencyTable, Plugins, Source, StudentBuild, forward_kl, measure_blocks, transform

from .calibration import Batches, evaluating, input_moments, text_batches
from .obs import Removal, damped, refit, removal_order
from .search import search_levels
from .structures import Block, blocks_of, expand, layer_map_of, matrix

TABLE = "latency_table"  # where the note in the configuration keeps the table of the stock model


def ziplm(
    teacher: PreTrainedModel,
    *,
    speed_up: float,
    texts: str | Sequence[str],
    tokenizer: str | None = None,
    num_texts: int = 128,
    max_length: int = 128,
    table: str | None = None,
    batch_size: int = 1,
    length: int = 128,
    damping: float = 1e-2,
    trials: int = 100,
    seed: int = 0,
) -> StudentBuild:
    """The teacher without the heads and MLP columns that are not worth their time; the rest makes up for them.

    See `prune`. A student that was pruned may be pruned further: speed-ups are always those over the stock model.

    Args:
        teacher: finetuned, of a family with a known layout; or a student of this builder.
        speed_up: how many times as fast as the stock model, by its table of latencies.
        texts: files of text to calibrate with, one a line; the training's own serve well.
        tokenizer: folder or hub name; that of the teacher where not given.
        num_texts: how many of them.
        max_length: tokens of each at most.
        table: a file with what `LatencyTable.to_dict` gave; measured here where not given.
        batch_size: for which the speed-up is meant.
        length: for which the speed-up is meant, in tokens.
        damping: see `prune`.
        trials: see `prune`.
        seed: see `prune`.

    Raises:
        ValueError: no text, an unknown family, or a speed-up that the model cannot have.
    """
    batches = text_batches(teacher, texts, tokenizer=tokenizer, num_texts=num_texts, max_length=max_length)
    known = None
    if table is not None:
        with open(table, encoding="utf-8") as opened:
            known = LatencyTable.from_dict(json.load(opened))
    return prune(
        teacher,
        batches,
        speed_up=speed_up,
        table=known,
        batch_size=batch_size,
        length=length,
        damping=damping,
        trials=trials,
        seed=seed,
    )


def prune(
    model: PreTrainedModel,
    batches: Batches,
    *,
    speed_up: float,
    table: LatencyTable | None = None,
    batch_size: int = 1,
    length: int = 128,
    damping: float = 1e-2,
    trials: int = 100,
    seed: int = 0,
) -> StudentBuild:
    """Remove heads and columns by the second-order update until the model is `speed_up` times as fast.

    For each attention and MLP, the order in which structures go and the error that each number of them leaves
    (`obs.removal_order`); then a search for how many stay in each block within the time (`search.search_levels`), by
    the divergence of the outputs on the calibration batches from those before; then the best weights on what stays
    (`obs.refit`).

    Paper: Kurtic et al. 2023 (ZipLM), arXiv:2302.04089, after its description. Deviations: the search tries 100
    candidates rather than 1,000; a block of a model with a cache keeps at least one head, since positions are counted
    there; heads that share keys and values go together.

    Args:
        model: see `ziplm`; stays as it is.
        batches: inputs of the model. The first of them also judge candidates.
        speed_up: over the stock model, at least 1.
        table: its latencies; by default those that the first pruning kept in the configuration, or measured now.
        batch_size: of the inputs that latencies are measured with.
        length: of these, in tokens.
        damping: share of the mean diagonal that is added to that of H.
        trials: candidates of the search; with none, the one of least summed error is taken.
        seed: of the search.

    Raises:
        ValueError: see `ziplm`.
    """
    found = blocks_of(model)
    table = table or _known_table(model) or measure_table(model, batch_size=batch_size, length=length)
    student = copy.deepcopy(model).requires_grad_(True)  # a teacher in use is frozen
    parts = _parts(student, batches, table, damping)
    seconds = [[part.seconds[size] for size in part.sizes] for part in parts]
    errors = [[part.removal.relative_error(size) for size in part.sizes] for part in parts]
    budget = _budget(table, speed_up, sum(map(min, seconds)), len(found))
    loss = _Divergence(student, model, batches[: max(1, 32 // _num_rows(batches[0]))], parts)
    with evaluating(student):
        levels = search_levels(seconds, errors, budget, loss, trials=trials, seed=seed)
    loss.apply(levels)
    sizes = [part.sizes[level] for part, level in zip(parts, levels, strict=True)]
    kept = [part.removal.kept(size) for part, size in zip(parts, sizes, strict=True)]
    mapping = _mapping(student, kept)
    for block, groups, columns in zip(blocks_of(student), kept[::2], kept[1::2], strict=True):
        block.keep(groups, columns)
    heads = [size * found[0].heads_per_group for size in sizes[::2]]
    transform(student, "keep_structures", plugins=Plugins(["prune"]), heads=heads, columns=sizes[1::2])
    student.config.hf_distill = {**student.config.hf_distill, TABLE: table.to_dict()}
    record = {
        "heads": heads,
        "columns": sizes[1::2],
        "speed_up": table.speed_up(heads, sizes[1::2]),
        "kept_groups": kept[::2],
        "kept_columns": kept[1::2],
        TABLE: table.to_dict(),
    }
    names = student.state_dict()
    return StudentBuild(student.eval(), {name: mapping[name] for name in names}, layer_map_of(model), record)


def measure_table(model: PreTrainedModel, *, batch_size: int = 1, length: int = 128) -> LatencyTable:
    """Latencies of every number of heads and of the numbers of columns that pruning chooses from.

    Raises:
        ValueError: the model was pruned before, so that its stock shape cannot be measured.
    """
    found = blocks_of(model)
    shape = found[0].shape
    if any((block.num_groups, block.num_columns) != (shape.key_value_heads, shape.columns) for block in found):
        raise ValueError(
            "The model has lost heads or columns already, and its configuration has no table of latencies of the "
            "whole one; measure that (hf_distill_prune.ziplm.measure_table) and give table."
        )
    return measure_blocks(
        model,
        heads=[one * found[0].heads_per_group for one in range(1, shape.key_value_heads + 1)],
        columns=column_sizes(shape.columns),
        batch_size=batch_size,
        length=length,
    )


def column_sizes(columns: int, factor: float = 0.9) -> list[int]:
    """The numbers of columns that may stay: `columns`, nine tenths of them, and so on for 42 times, and none."""
    return sorted({0, *(round(columns * factor**power) for power in range(43))})


@dataclass
class _Part:
    """An attention or an MLP of the student, whole as yet.

    Attributes:
        block: which has it.
        is_attention: rather than an MLP.
        moment: H of the inputs of its last matrix, damped.
        removal: in which order structures go.
        sizes: how many structures may stay, rising.
        seconds: by size.
    """

    block: Block
    is_attention: bool
    moment: Tensor
    removal: Removal
    sizes: list[int]
    seconds: Mapping[int, float]

    def __post_init__(self) -> None:
        self.weight = matrix(self.out).detach().clone()
        self._weights = {len(self.removal.order): self.weight}  # refitted, by size

    @property
    def out(self) -> torch.nn.Module:
        return self.block.attention_out if self.is_attention else self.block.mlp_out

    @property
    def width(self) -> int:
        return self.block.group_width if self.is_attention else 1

    def weight_of(self, size: int) -> Tensor:
        """The best weight on what stays, ``[o, d]``, zeros elsewhere."""
        if size not in self._weights:
            columns = expand(self.removal.kept(size), self.width).to(self.weight.device)
            self._weights[size] = refit(self.weight, self.moment, columns).to(self.weight.dtype)
        return self._weights[size]


class _Divergence:
    """How far the student with some levels is from the model: mean KL of rows, or the squared error without logits.

    Args:
        student: gets weights with zeros in place of what goes, which gives what it gives without that.
        model: as it was.
        batches: inputs.
        parts: of the student.
    """

    def __init__(self, student: PreTrainedModel, model: PreTrainedModel, batches: Batches, parts: list[_Part]) -> None:
        self.student, self.batches, self.parts = student, batches, parts
        with torch.no_grad(), evaluating(model):
            self.wanted = [_rows_of(model, batch) for batch in batches]

    def apply(self, levels: Sequence[int]) -> None:
        """Give the student the weights of these levels."""
        with torch.no_grad():
            for part, level in zip(self.parts, levels, strict=True):
                matrix(part.out).copy_(part.weight_of(part.sizes[level]))

    @torch.no_grad()
    def __call__(self, levels: list[int]) -> float:
        self.apply(levels)
        total, count = 0.0, 0
        for batch, (wanted, are_logits) in zip(self.batches, self.wanted, strict=True):
            found, _ = _rows_of(self.student, batch)
            values = forward_kl(found, wanted) if are_logits else (found - wanted).float().square().mean(-1)
            total, count = total + float(values.sum()), count + len(values)
        return total / count


def _rows_of(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, bool]:
    """What a model gives, by example or by token that is not padding, and whether it is logits of classes."""
    output = model(**{key: value for key, value in batch.items() if key != "labels"})
    are_logits = "logits" in output
    rows = output.logits if are_logits else output.last_hidden_state
    mask = batch.get("attention_mask")
    if rows.dim() > 2 and mask is not None:
        rows = rows[mask.bool()]
    return rows.flatten(0, -2), are_logits and rows.shape[-1] > 1


def _num_rows(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _parts(student: PreTrainedModel, batches: Batches, table: LatencyTable, damping: float) -> list[_Part]:
    """All attentions and MLPs, block by block."""
    found = blocks_of(student)
    modules = [out for block in found for out in (block.attention_out, block.mlp_out)]
    moments = input_moments(student, batches, modules)
    parts = []
    for index, (module, moment) in enumerate(zip(modules, moments, strict=True)):
        block, is_attention = found[index // 2], index % 2 == 0
        moment, now = damped(moment, damping), block.num_groups if is_attention else block.num_columns
        removal = removal_order(matrix(module).detach(), moment, block.group_width if is_attention else 1)
        sizes = range(block.fewest_groups, now + 1) if is_attention else column_sizes(block.shape.columns)
        sizes = [size for size in sizes if size <= now]
        known = table.attention if is_attention else table.mlp
        scale = block.heads_per_group if is_attention else 1
        if absent := [size * scale for size in sizes if size * scale not in known]:
            raise ValueError(
                f"The table of latencies lacks {absent} {'heads' if is_attention else 'columns'}; make it with "
                "hf_distill_prune.ziplm.measure_table."
            )
        parts.append(_Part(block, is_attention, moment, removal, sizes, {size: known[size * scale] for size in sizes}))
    return parts


def _budget(table: LatencyTable, speed_up: float, fastest: float, num_blocks: int) -> float:
    """The seconds that attentions and MLPs may take together."""
    if speed_up < 1:
        raise ValueError(f"speed_up is {speed_up}; expected 1 or more, over the stock model.")
    whole = table.seconds([max(table.attention)] * num_blocks, [max(table.mlp)] * num_blocks)
    budget = whole / speed_up - table.rest
    if budget < fastest or budget <= 0:
        raise ValueError(
            f"speed_up is {speed_up}; without any head and column that can go the model is "
            f"{whole / (table.rest + fastest):.2f} times as fast, since all the rest of it takes {table.rest:.2g} s of "
            f"{whole:.2g} s. Ask for less."
        )
    return budget


def _known_table(model: PreTrainedModel) -> LatencyTable | None:
    note = getattr(model.config, "hf_distill", {}).get(TABLE)
    return None if note is None else LatencyTable.from_dict(note)


def _mapping(student: PreTrainedModel, kept: Sequence[Sequence[int]]) -> dict[str, Source]:
    """The source of each tensor, by its name before anything is left out."""
    mapping = {name: Source("copy", (name,)) for name in student.state_dict()}
    paths = {module: path for path, module in student.named_modules()}
    for block, groups, columns in zip(blocks_of(student), kept[::2], kept[1::2], strict=True):
        layout = block.layout
        heads = f"groups of heads {list(groups)} of {block.num_groups}"
        inner = f"{len(columns)} columns of {block.num_columns}"
        parts = {path: ("rows", heads) for path in (layout.queries, layout.keys, layout.values)}
        parts |= {path: ("rows", inner) for path in layout.mlp_in}
        parts |= {layout.attention_out: ("obs", heads), layout.mlp_out: ("obs", inner)}
        for path, (operator, part) in parts.items():
            weight = f"{paths[block.module]}.{path}.weight"
            bias = weight.removesuffix("weight") + "bias"
            mapping[weight] = Source(operator, (weight,), part)
            if operator == "rows" and bias in mapping:
                mapping[bias] = Source(operator, (bias,), part)
    return mapping
