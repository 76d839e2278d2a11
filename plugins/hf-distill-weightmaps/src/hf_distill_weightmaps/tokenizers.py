"""Tokenizers with part of their vocabulary, made from the file format of the `tokenizers` library.

    kept = closure(tokenizer, used)      # what must stay for `used` to be made as before
    student_tokenizer = trimmed(tokenizer, kept)

WordPiece takes the longest token that matches, Unigram the most probable path, BPE the merges by rank. In each, what
was not chosen in a text can go without changing the text's tokens, as long as BPE keeps the merges that lead to what
was chosen.
"""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase

MODELS = ("WordPiece", "WordLevel", "Unigram", "BPE")


def closure(tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], *, below: int | None = None) -> list[int]:
    """The ids that stay so that texts of `ids` are tokenized as before, in order.

    Args:
        tokenizer: a fast one.
        ids: those in use.
        below: ids from here on (which the model's embedding does not have) go.

    Raises:
        ValueError: a tokenizer that is not fast, or of a kind that cannot be trimmed.
    """
    description = described(tokenizer)
    vocabulary = vocabulary_of(description)
    kept = {*ids, *tokenizer.all_special_ids, *(one["id"] for one in description["added_tokens"])}
    model = description["model"]
    if (unknown := model.get("unk_token")) in vocabulary:
        kept.add(vocabulary[unknown])
    if model.get("unk_id") is not None:
        kept.add(model["unk_id"])
    if model.get("byte_fallback"):
        kept.update(vocabulary[byte] for number in range(256) if (byte := f"<0x{number:02X}>") in vocabulary)
    if model["type"] == "BPE":
        if '"ByteLevel"' in json.dumps(description):
            kept.update(place for token, place in vocabulary.items() if len(token) == 1)
        kept |= _parts(kept, model["merges"], vocabulary)
    return sorted(one for one in kept if below is None or one < below)


def trimmed(tokenizer: PreTrainedTokenizerBase, kept: Sequence[int]) -> PreTrainedTokenizerBase:
    """The tokenizer with the tokens `kept`, which get the ids 0, 1, 2 ... in their order.

    Raises:
        ValueError: a tokenizer that is not fast, or of a kind that cannot be trimmed.
    """
    description = described(tokenizer)
    place = {token: index for index, token in enumerate(sorted(kept))}
    model = description["model"]
    vocabulary = {token: place[old] for token, old in vocabulary_of(description).items() if old in place}
    if model["type"] == "Unigram":
        model["vocab"] = [pair for old, pair in enumerate(model["vocab"]) if old in place]
        model["unk_id"] = place.get(model["unk_id"])
    else:
        model["vocab"] = vocabulary
    if model["type"] == "BPE":
        pairs = [(pair, _pair(pair)) for pair in model["merges"]]
        model["merges"] = [
            pair
            for pair, (one, other) in pairs
            if one in vocabulary and other in vocabulary and one + other in vocabulary
        ]
    description["added_tokens"] = [
        {**one, "id": place[one["id"]]} for one in description["added_tokens"] if one["id"] in place
    ]
    names = {**vocabulary, **{one["content"]: one["id"] for one in description["added_tokens"]}}
    description["post_processor"] = _renumbered(description["post_processor"], names)
    if description.get("padding"):
        description["padding"]["pad_id"] = names[description["padding"]["pad_token"]]
    return _reloaded(tokenizer, description, place)


def described(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """What a fast tokenizer writes into tokenizer.json.

    Raises:
        ValueError: it is not fast, or its model is none of `MODELS`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{type(tokenizer).__name__} is not a fast tokenizer; only those can be trimmed.")
    description: dict[str, Any] = json.loads(backend.to_str())
    if description["model"]["type"] not in MODELS:
        raise ValueError(f"A {description['model']['type']} tokenizer cannot be trimmed; {', '.join(MODELS)} can.")
    return description


def vocabulary_of(description: Mapping[str, Any]) -> dict[str, int]:
    """The ids of the tokens of a tokenizer's model, without those that were added."""
    vocabulary = description["model"]["vocab"]
    if isinstance(vocabulary, list):
        return {token: index for index, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def name_of(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """A token as the tokenizer writes it."""
    return str(tokenizer.convert_ids_to_tokens(token))


def _parts(ids: Iterable[int], merges: Sequence[Any], vocabulary: Mapping[str, int]) -> set[int]:
    """The tokens that BPE goes through to make `ids`."""
    made_of: dict[int, list[int]] = defaultdict(list)
    for one, other in map(_pair, merges):
        if one + other in vocabulary:
            made_of[vocabulary[one + other]] += [vocabulary[one], vocabulary[other]]
    found, waiting = set(ids), list(ids)
    while waiting:
        new = [part for part in made_of[waiting.pop()] if part not in found]
        found.update(new)
        waiting += new
    return found


def _pair(merge: Any) -> tuple[str, str]:
    one, other = merge.split(" ") if isinstance(merge, str) else merge
    return one, other


def _renumbered(processor: Any, names: Mapping[str, int]) -> Any:
    """A post-processor with the new ids of the special tokens that it puts in."""
    if isinstance(processor, list):
        return [_renumbered(one, names) for one in processor]
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") in ("BertProcessing", "RobertaProcessing"):
        return {**processor, **{end: [processor[end][0], names[processor[end][0]]] for end in ("sep", "cls")}}
    if processor.get("type") == "TemplateProcessing":
        tokens = {
            key: {**one, "ids": [names[token] for token in one["tokens"]]}
            for key, one in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": tokens}
    return {key: _renumbered(one, names) for key, one in processor.items()}


def _reloaded(
    tokenizer: PreTrainedTokenizerBase, description: Mapping[str, Any], place: Mapping[int, int]
) -> PreTrainedTokenizerBase:
    """The tokenizer as transformers reads it from the changed files."""
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        (Path(folder) / "tokenizer.json").write_text(json.dumps(description, ensure_ascii=False), encoding="utf-8")
        path = Path(folder) / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        if added := config.get("added_tokens_decoder"):
            config["added_tokens_decoder"] = {str(place[int(k)]): v for k, v in added.items() if int(k) in place}
        path.write_text(json.dumps(config, ensure_ascii=False), encoding="utf-8")
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    found.name_or_path = tokenizer.name_or_path
    return found
