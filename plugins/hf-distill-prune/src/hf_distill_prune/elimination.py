"""Leaving out words on their way through an encoder: which, and how many; pure functions.

B is the batch, N the length, h heads, L blocks. Padding is never counted, and the first word (CLS) always stays.

Paper: Kachuee and Sharifkhani 2022, "Latency Adjustable Transformer Encoder for Language Understanding",
arXiv:2201.03327, after its description. How the paper normalises the attention context contribution is not known; the
reading here: a block needs the fewest words that together receive the share `share` of its attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def received_attention(probabilities: Tensor, mask: Tensor) -> Tensor:
    """How much attention each word gets: the mean over heads and over the words that look, which are no padding.

    Args:
        probabilities: ``[B, h, N, N]``, rows are the words that look.
        mask: ``[B, N]``, True where there is a word.

    Returns:
        ``[B, N]``, float32; the words of an example sum to 1, padding has 0.
    """
    looking = mask.float() / mask.sum(-1, keepdim=True)
    received = torch.einsum("bhqk,bq->bhk", probabilities.float(), looking).mean(1)
    return received.masked_fill(~mask, 0.0)


def needed_share(scores: Tensor, mask: Tensor, share: float) -> Tensor:
    """The share of an example's words that it takes, best first, to have `share` of all scores.

    Args:
        scores: ``[B, N]``, not negative.
        mask: ``[B, N]``.
        share: in (0, 1].

    Returns:
        ``[B]``, in (0, 1].
    """
    ranked = scores.masked_fill(~mask, 0.0).sort(-1, descending=True).values
    carried = ranked.cumsum(-1) / ranked.sum(-1, keepdim=True)
    # A sum that is 1 but for rounding is 1.
    words = 1 + (carried < share - 1e-6).sum(-1)
    return torch.minimum(words, mask.sum(-1)) / mask.sum(-1)


def rising_elimination(shares: Sequence[float], minimum: float) -> list[float]:
    """Shares by block that never grow again, since a word that left does not come back, and none below `minimum`."""
    profile: list[float] = []
    for share in shares:
        profile.append(max(min(share, profile[-1] if profile else 1.0), minimum))
    return profile


def words_to_keep(mask: Tensor, there: Tensor, share: float) -> Tensor:
    """How many words of each example stay: `share` of those that it had at first, of those that are there, at least 1.

    Args:
        mask: ``[B, n]``, True where a word is there now.
        there: ``[B]``, how many there were at first.
        share: of these.

    Returns:
        ``[B]``.
    """
    return torch.minimum((there * min(share, 1.0)).round().long().clamp(min=1), mask.sum(-1))


def keep_best(scores: Tensor, mask: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """The places of the words with the highest scores, in their old order; the first word is always among them.

    Args:
        scores: ``[B, n]``.
        mask: ``[B, n]``.
        counts: ``[B]``, how many stay, at least 1 and no more than there are.

    Returns:
        Places ``[B, k]``, k the largest count, rising and all different, and a mask ``[B, k]``: False for those that
        only fill up, in examples where fewer stay.
    """
    ranked = scores.masked_fill(~mask, -torch.inf)
    ranked[:, 0] = torch.inf
    best = ranked.argsort(dim=-1, descending=True, stable=True)[:, : int(counts.max())]
    places, order = best.sort(-1)
    return places, order < counts[:, None]
