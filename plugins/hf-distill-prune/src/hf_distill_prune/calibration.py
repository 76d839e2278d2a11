"""Running a model over some text, and what its linear maps are given meanwhile."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

Batches = Sequence[Mapping[str, Tensor]]


def text_batches(
    model: PreTrainedModel,
    texts: str | Sequence[str],
    *,
    tokenizer: str | None = None,
    num_texts: int = 128,
    max_length: int = 128,
    batch_size: int = 16,
) -> list[dict[str, Tensor]]:
    """The first texts of some files, one a line, as inputs of a model.

    Args:
        model: says where they go, and where its tokenizer is if that is not said.
        texts: files; empty lines do not count.
        tokenizer: folder or hub name.
        num_texts: how many at most.
        max_length: tokens of each at most.
        batch_size: texts a batch.

    Raises:
        ValueError: no file, or nothing in it.
    """
    files = [texts] if isinstance(texts, str) else list(texts)
    if odd := [file for file in files if not Path(file).is_file()]:
        raise ValueError(f"texts names {odd[0]!r}, which is no file; expected files of text, one a line.")
    lines = list(itertools.islice(_lines(files), num_texts))
    if not lines:
        raise ValueError(f"There is no text to calibrate with in {files}; give texts=[files], one text a line.")
    tokens = AutoTokenizer.from_pretrained(tokenizer or model.name_or_path)
    if tokens.pad_token is None:
        tokens.pad_token = tokens.eos_token
    options: Any = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
    batches = []
    for start in range(0, len(lines), batch_size):
        encoded = tokens(lines[start : start + batch_size], **options)
        batches.append({key: encoded[key].to(model.device) for key in ("input_ids", "attention_mask")})
    return batches


@torch.no_grad()
def input_moments(model: PreTrainedModel, batches: Batches, modules: Sequence[nn.Module]) -> list[Tensor]:
    """``X^T X`` of the inputs of some linear modules, over all tokens that are not padding, in float64.

    Args:
        model: which has the modules; it is run as it is in evaluation.
        batches: its inputs; ``attention_mask`` says what counts.
        modules: each with inputs ``[..., d]``.

    Returns:
        ``[d, d]`` for each module.

    Raises:
        ValueError: no batches.
    """
    if not batches:
        raise ValueError("There are no batches to calibrate with; expected inputs of the model, at least one.")
    moments: list[Any] = [0.0] * len(modules)
    mask: list[Tensor | None] = [None]

    def add(place: int, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].flatten(0, -2)
        rows = (rows if mask[0] is None else rows[mask[0]]).double()
        moments[place] = moments[place] + rows.T @ rows

    with ExitStack() as stack, evaluating(model):
        for place, module in enumerate(modules):
            stack.callback(module.register_forward_pre_hook(partial(add, place)).remove)
        for batch in batches:
            there = batch.get("attention_mask")
            mask[0] = None if there is None else there.bool().flatten()
            model(**{key: value for key, value in batch.items() if key != "labels"})
    return moments


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In evaluation mode, and back."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _lines(files: Iterable[str]) -> Iterator[str]:
    for file in files:
        with open(file, encoding="utf-8") as opened:
            yield from (line.strip() for line in opened if line.strip())
