"""A student whose vocabulary is part of the teacher's: the same logits on what was kept.

    build_student("big", "trim_vocabulary", texts=["german.txt", "french.txt"])

or from Python, with texts from anywhere, ``keep=used_tokens(tokenizer, texts)``.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill import Blueprint, Source, shape_only, skeleton

from .families import Axis, TensorAxes, family_of
from .tokenizers import closure, name_of, trimmed

_BATCH = 1000  # texts that are tokenized at a time


@shape_only
def trim_vocabulary(
    teacher: PreTrainedModel,
    *,
    texts: str | Sequence[str] = (),
    keep: Sequence[int] | None = None,
    min_probability: float = 0.0,
    tokenizer: str | None = None,
) -> Blueprint:
    """The teacher with fewer tokens: rows of the embedding and of the head are left out, the rest is copied.

    What is kept: the tokens of `texts` (or `keep`), special and added tokens, bytes, and what the tokenizer needs to
    make these. Texts of kept tokens alone are tokenized as before, and the logits of kept tokens are the teacher's.
    The student gets a tokenizer of its own, which is saved beside it. Padding rows of the teacher's head are dropped.

    Paper: Ansell et al. 2023 (BiStil), arXiv:2306.01709, which keeps tokens of probability 1e-6 or more in source and
    target text together; here tokens that occur are not lost unless `min_probability` says so.

    Args:
        teacher: of a known family, with a fast tokenizer.
        texts: files of text, a document a line; what tokens are in use is counted there.
        keep: ids to keep. With `texts` too, losing a token that occurs there is an error.
        min_probability: tokens of `texts` that are less probable go, where `keep` is not given.
        tokenizer: folder or hub name; that of the teacher where not given.

    Raises:
        ValueError: neither texts nor ids, ids that do not exist, tokens in use that would be lost (names them), a
            tokenizer that cannot be trimmed, or an unknown family.
    """
    if not texts and keep is None:
        raise ValueError("Say which tokens to keep: texts=[files] that they are counted in, or keep=[ids].")
    family = family_of(teacher.config)
    if not hasattr(teacher.config, "vocab_size"):
        raise ValueError(f"{type(teacher).__name__} has no vocabulary.")
    source = tokenizer or teacher.name_or_path
    if not source:
        raise ValueError("The teacher was made, not loaded, so its tokenizer is not known; give tokenizer=folder.")
    tokens = AutoTokenizer.from_pretrained(source)
    files = [texts] if isinstance(texts, str) else list(texts)
    counts = count_tokens(tokens, _lines(files))
    if keep is None:
        keep = frequent(counts, min_probability)
    elif lost := sorted(counts.keys() - set(keep)):
        raise ValueError(
            f"keep leaves out {len(lost)} tokens that occur in the texts: {_names(tokens, lost)}. Add them, or leave "
            "the texts out."
        )
    size = min(len(tokens), teacher.config.vocab_size)
    if odd := sorted(token for token in keep if not 0 <= token < size):
        raise ValueError(f"keep names ids that do not exist: {odd[:10]}; there are 0 to {size - 1}.")
    if family.counts_from_padding:
        keep = [*keep, *range(teacher.config.pad_token_id + 1)]
    kept = closure(tokens, [*keep, *special_ids(teacher)], below=teacher.config.vocab_size)
    config = with_ids(copy.deepcopy(teacher.config), kept)
    config.vocab_size = len(kept)
    axes = TensorAxes.of(skeleton(teacher, config), family).axes
    mapping = {name: _rows(name, own, tensor(kept)) for name, own in axes.items()}
    generation = with_ids(copy.deepcopy(teacher.generation_config), kept) if teacher.can_generate() else None
    return Blueprint(
        config,
        mapping,
        list(range(config.num_hidden_layers)),
        tokenizer=trimmed(tokens, kept),
        generation_config=generation,
        record={"kept": kept, "lost": _lost(tokens, counts, kept)},
    )


def count_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Counter[int]:
    """How often each token occurs in the texts, without the special tokens that are put around them."""
    counts: Counter[int] = Counter()
    batch: list[str] = []

    def count() -> None:
        for ids in tokenizer(batch, add_special_tokens=False)["input_ids"]:
            counts.update(ids)
        batch.clear()

    for text in texts:
        batch.append(text)
        if len(batch) == _BATCH:
            count()
    if batch:
        count()
    return counts


def used_tokens(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], *, min_probability: float = 0.0) -> list[int]:
    """The ids of the tokens that make up at least this share of the texts' tokens, in order."""
    return frequent(count_tokens(tokenizer, texts), min_probability)


def frequent(counts: Counter[int], min_probability: float) -> list[int]:
    """The tokens that make up at least this share of all that were counted, in order."""
    total = sum(counts.values())
    return sorted(token for token, count in counts.items() if count >= min_probability * total)


def new_ids(kept: Sequence[int], ids: Sequence[int], tokenizer: PreTrainedTokenizerBase | None = None) -> list[int]:
    """Token ids of the teacher as the student has them.

    Args:
        kept: the teacher's ids that the student has, in order: ``build.record["kept"]``.
        ids: of some text.
        tokenizer: the teacher's, for names in the error.

    Raises:
        ValueError: tokens that the student does not have; names them.
    """
    place = {token: index for index, token in enumerate(kept)}
    if lost := sorted({token for token in ids if token not in place}):
        raise ValueError(f"{len(lost)} tokens in use are not in the student's vocabulary: {_names(tokenizer, lost)}.")
    return [place[token] for token in ids]


def special_ids(model: PreTrainedModel) -> list[int]:
    """The token ids that configurations of a model speak of and its embedding has."""
    configs: list[Any] = [model.config, *([model.generation_config] if model.can_generate() else [])]
    values = [value for config in configs for key, value in config.to_dict().items() if key.endswith("_token_id")]
    flat = [one for value in values for one in (value if isinstance(value, list) else [value])]
    return sorted({one for one in flat if isinstance(one, int) and 0 <= one < model.config.vocab_size})


def with_ids(config: Any, kept: Sequence[int]) -> Any:
    """A configuration whose token ids are the student's; ids that no token has are left out."""
    place = {token: index for index, token in enumerate(kept)}
    for key, value in config.to_dict().items():
        if key.endswith("_token_id") and value is not None:
            setattr(config, key, [place[one] for one in value] if isinstance(value, list) else place.get(value))
    return config


def _rows(name: str, axes: Sequence[Axis], rows: Tensor) -> Source:
    if axes[0].kind != "vocabulary":
        return Source("copy", (name,))
    return Source("rows", (name,), f"{len(rows)} tokens", lambda weight: weight[rows.to(weight.device)])


def _lines(files: Sequence[str]) -> Iterator[str]:
    for file in files:
        if not Path(file).is_file():
            raise ValueError(f"texts names {file!r}, which is no file.")
        with open(file, encoding="utf-8") as opened:
            yield from (line.rstrip("\n") for line in opened)


def _lost(tokenizer: PreTrainedTokenizerBase, counts: Counter[int], kept: Sequence[int]) -> dict[str, int]:
    """What occurs and goes, with how often."""
    there = set(kept)
    return {name_of(tokenizer, token): count for token, count in counts.most_common() if token not in there}


def _names(tokenizer: PreTrainedTokenizerBase | None, ids: Sequence[int]) -> str:
    shown = [f"{one}" if tokenizer is None else f"{name_of(tokenizer, one)!r} ({one})" for one in ids[:10]]
    return ", ".join([*shown, *(["..."] if len(ids) > 10 else [])])
