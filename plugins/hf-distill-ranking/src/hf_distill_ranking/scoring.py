"""From the states of a query and its documents to scores.

Shape letters: B queries of a batch, K documents of the longest list, R documents of all lists together, S positions,
H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_distill import as_float32

POOLINGS = ("mean", "first", "last")


def pool(states: Tensor, mask: Tensor, pooling: str = "mean") -> Tensor:
    """One vector for each sequence, ``[n, H]``, in float32 (float64 for float64 states).

    Args:
        states: ``[n, S, H]``.
        mask: true where there is a token, ``[n, S]``; padding may stand on either side.
        pooling: "mean", "first" (the class token of encoders) or "last" (of decoders).
    """
    states = as_float32(states)
    if pooling == "mean":
        return torch.where(mask[:, :, None], states, 0).sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
    places = torch.arange(mask.shape[1], device=mask.device)
    place = torch.where(mask, places if pooling == "last" else -places, -mask.shape[1]).argmax(1)
    return states.gather(1, place[:, None, None].expand(-1, 1, states.shape[2])).squeeze(1)


def in_lists(flat: Tensor, mask: Tensor) -> Tensor:
    """What belongs to each query's documents, ``[B, K, ...]``, from that of all lists behind each other, ``[R, ...]``.

    Args:
        flat: of the documents in the order of their queries.
        mask: which places of the lists are filled, from the left, ``[B, K]``; the others get some document's.
    """
    places = (mask.flatten().cumsum(0) - 1).clamp(min=0)
    lists: Tensor = flat[places].unflatten(0, mask.shape)
    return lists


@torch.no_grad()
def embed(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    pooling: str = "mean",
    normalize: bool = False,
    max_length: int = 256,
    batch_size: int = 64,
) -> Tensor:
    """The vectors of some texts, ``[n, H]``, float32 on the CPU, as the losses see them; ``embed(...) @ ...T`` ranks.

    Args:
        model: the student, or what `AutoModel.from_pretrained` makes of its folder.
        tokenizer: its tokenizer.
        texts: queries or documents.
        pooling: as in training.
        normalize: as in training.
        max_length: longer texts are cut.
        batch_size: texts at a time.
    """
    device = next(model.parameters()).device
    vectors = []
    for start in range(0, len(texts), batch_size):
        chosen = list(texts[start : start + batch_size])
        options: Any = {"padding": True, "truncation": True, "max_length": max_length, "return_tensors": "pt"}
        batch = tokenizer(chosen, **options).to(device)
        pooled = pool(model(**batch).last_hidden_state, batch["attention_mask"].bool(), pooling)
        vectors.append((nn.functional.normalize(pooled, dim=-1) if normalize else pooled).float().cpu())
    return torch.cat(vectors)
