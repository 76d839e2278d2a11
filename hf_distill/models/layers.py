"""Where the transformer blocks of a model are, and which teacher block a student block learns from.

    blocks(model)                     # the ModuleList of a model with one stack
    blocks(t5, stack="encoder")       # encoder-decoders have two
    layer_map(4, 12)                  # [(0, 2), (1, 5), (2, 8), (3, 11)]

No table of model families: the blocks are the outermost `ModuleList` that is as long as the configuration says, of
several the one with most parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedModel

LAYER_MAPS = ("last_of_block", "every_k", "uniform", "top")
_COUNT_NAMES = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_ENCODER_DECODER_COUNT_NAMES = ("encoder_layers", "decoder_layers", "num_decoder_layers")
_WIDTH_NAMES = ("hidden_size", "d_model", "n_embd", "dim")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside wrappers: DDP, DataParallel, a DeepSpeed engine, torch.compile, PEFT, in any order."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        elif hasattr(model, "get_base_model"):
            model = model.get_base_model()  # type: ignore[operator]
        elif not isinstance(model, PreTrainedModel) and isinstance(inner := model._modules.get("module"), nn.Module):
            model = inner  # asked of the wrapper alone: DeepSpeed's engine passes attributes on to the model
        else:
            return model


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model has two stacks of blocks."""
    return bool(getattr(getattr(unwrap(model), "config", None), "is_encoder_decoder", False))


def stack_module(model: nn.Module, stack: str = "") -> nn.Module:
    """The part of a model that holds one stack of blocks, for vision-language models the text part.

    Raises:
        ValueError: an encoder-decoder was given and `stack` does not say which, or the other way round.
    """
    model = unwrap(model)
    if is_encoder_decoder(model):
        if stack not in ("encoder", "decoder"):
            raise ValueError(
                f"{type(model).__name__} has two stacks of blocks; say which one, encoder or decoder "
                '(features are named "encoder.hidden.0", "decoder.hidden.0").'
            )
        part: nn.Module = model.get_encoder() if stack == "encoder" else model.get_decoder()  # type: ignore[operator]
        return part
    if stack:
        raise ValueError(f'{type(model).__name__} has one stack of blocks; leave out "{stack}".')
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config") and config.get_text_config() is not config:
        text: nn.Module = model.get_decoder()  # type: ignore[operator]
        return text
    return model


def stack_config(model: nn.Module, stack: str = "") -> Any:
    """The configuration of one stack, or None where there is none."""
    model = unwrap(model)
    config: Any = getattr(stack_module(model, stack), "config", None) or getattr(model, "config", None)
    return config.get_text_config() if not stack and hasattr(config, "get_text_config") else config


def blocks(model: nn.Module, stack: str = "") -> nn.ModuleList:
    """The transformer blocks of a model: its outermost ModuleList as long as the configuration's number of layers.

    Where as many convolutions lie before them as deep inside the model (HuBERT), those with most parameters.

    Args:
        model: any model of transformers, wrapped or not.
        stack: "encoder" or "decoder" for encoder-decoders, "" otherwise.

    Raises:
        ValueError: no such list, or an encoder-decoder without `stack`.
    """
    config = stack_config(model, stack)
    names = _COUNT_NAMES + (_ENCODER_DECODER_COUNT_NAMES if stack else ())
    counts = {count for name in names if isinstance(count := getattr(config, name, None), int)}
    root: nn.Module = stack_module(model, stack)
    root = getattr(root, "base_model", root)  # without heads and whatever else was attached outside
    for level in _levels(root):
        found = [one for one in level if isinstance(one, nn.ModuleList) and len(one) in counts]
        if found:
            return max(found, key=_num_parameters)  # the first of equal ones
    lengths = sorted({len(module) for module in root.modules() if isinstance(module, nn.ModuleList)})
    raise ValueError(
        f"Found no blocks in {type(root).__name__}: its configuration speaks of {sorted(counts) or 'no number of'} "
        f'layers and its ModuleLists have lengths {lengths}. Name features by module path instead ("module:a.b.c").'
    )


def num_blocks(model: nn.Module, stack: str = "") -> int:
    """How many blocks `blocks` finds."""
    return len(blocks(model, stack))


def hidden_width(model: nn.Module, stack: str = "") -> int:
    """The width H of the hidden states between blocks, as the configuration has it.

    Raises:
        ValueError: the configuration does not say.
    """
    config = stack_config(model, stack)
    for name in _WIDTH_NAMES:
        if isinstance(width := getattr(config, name, None), int):
            return width
    raise ValueError(
        f"The configuration of {type(unwrap(model)).__name__} has none of {', '.join(_WIDTH_NAMES)}; "
        "the width of its hidden states is not known."
    )


def layer_map(
    num_student: int, num_teacher: int, kind: str | Sequence[Sequence[int]] = "last_of_block"
) -> list[tuple[int, int]]:
    """Pairs (student block, teacher block).

    Args:
        num_student: blocks of the student, S.
        num_teacher: blocks of the teacher, T.
        kind: one of

            - "last_of_block": the teacher's blocks are cut into S shares; each share's last one (TinyBERT, Jiao et al.
              2020, arXiv:1909.10351: g(m) = m T / S).
            - "every_k": each share's first one, that is every k-th where S divides T (DistilBERT's initialisation).
            - "uniform": evenly spaced, the first and the last included.
            - "top": the last S blocks.
            - a list of [student block, teacher block]; negative numbers count from the end.

    Raises:
        ValueError: an unknown kind, a student with more blocks than the teacher, a pair out of range or no
            pair at all.
    """
    if not isinstance(kind, str):
        if not kind:
            raise ValueError("The list of layer pairs is empty; give at least one [student block, teacher block].")
        return [(_index(s, num_student, "student"), _index(t, num_teacher, "teacher")) for s, t in kind]
    if kind not in LAYER_MAPS:
        raise ValueError(f"Layer map {kind!r}; expected one of {', '.join(LAYER_MAPS)} or a list of pairs.")
    if num_student > num_teacher:
        raise ValueError(
            f"Layer map {kind!r} needs a teacher at least as deep as the student; the student has {num_student} "
            f"blocks and the teacher {num_teacher}. Give pairs [student block, teacher block] instead."
        )
    share = [index * num_teacher // num_student for index in range(num_student + 1)]
    chosen = {
        "last_of_block": [end - 1 for end in share[1:]],
        "every_k": share[:-1],
        "uniform": [round(i * (num_teacher - 1) / max(num_student - 1, 1)) for i in range(num_student)],
        "top": [num_teacher - num_student + index for index in range(num_student)],
    }[kind]
    return list(enumerate(chosen))


def match_layers(
    student: nn.Module,
    teacher: nn.Module,
    kind: str | Sequence[Sequence[int]] = "auto",
    *,
    stack: str = "",
) -> list[tuple[int, int]]:
    """`layer_map` for two models.

    "auto" takes the map that a student builder left in ``student.config.hf_distill["layer_map"]`` (the teacher block
    that each student block was made from, None for none; for encoder-decoders one such list for each stack)
    where it fits the two models, and "last_of_block" otherwise.
    """
    num_student, num_teacher = num_blocks(student, stack), num_blocks(teacher, stack)
    if kind != "auto":
        return layer_map(num_student, num_teacher, kind)
    record = getattr(getattr(unwrap(student), "config", None), "hf_distill", None) or {}
    built = record.get("layer_map")
    built = (built.get(stack) if isinstance(built, dict) else built) or []
    pairs = [(index, block) for index, block in enumerate(built) if block is not None]
    if pairs and len(built) == num_student and all(block < num_teacher for _, block in pairs):
        return pairs
    return layer_map(num_student, num_teacher)


def _index(index: int, count: int, whose: str) -> int:
    if not -count <= index < count:
        raise ValueError(f"The layer map names {whose} block {index}; there are {count} (0 to {count - 1}).")
    return index % count


def _levels(root: nn.Module) -> Iterator[list[nn.Module]]:
    level = [root]
    while level:
        yield level
        level = [child for module in level for child in module.children()]


def _num_parameters(module: nn.Module) -> int:
    # ZeRO-3 leaves nothing of a parameter but its number of elements.
    return sum(getattr(one, "ds_numel", one.numel()) for one in module.parameters())
