"""Short texts that are equal for equal models and tokenizers, wherever they lie: what a cache is bound to."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from ..models.heads import gathered

_SAMPLES = 1024


def model_fingerprint(model: nn.Module) -> str:
    """A hash of every tensor's name, shape, type and evenly spaced values, at most 1,024 of each.

    A further training step moves some of these in every tensor, and reading 70 billion numbers is not needed.
    Collective where ZeRO-3 shards the model.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted([*model.named_parameters(), *model.named_buffers()]):
        with gathered([tensor] if isinstance(tensor, nn.Parameter) else []):
            flat = tensor.detach().flatten()
            places = torch.linspace(0, max(len(flat) - 1, 0), min(len(flat), _SAMPLES), dtype=torch.float64)
            sample = flat[places.long().to(flat.device)].to("cpu", torch.float64)
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample.numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprints(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """Hashes of what makes token ids of text ("tokenizer") and text of conversations ("template")."""
    parts = {"vocabulary": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        # Padding and truncation are settings of a call, which stay behind in the object.
        parts |= {k: v for k, v in json.loads(backend.to_str()).items() if k not in ("padding", "truncation")}
    return {"tokenizer": _hash(parts), "template": _hash(tokenizer.chat_template)}


def _hash(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
