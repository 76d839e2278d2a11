"""Tokens that say what others say: which positions of a sequence a loss may leave out.

Shape letters: B examples, S positions, H width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def token_weights(hidden: Tensor, mask: Tensor, ratio: float) -> Tensor:
    """0 for the most redundant tokens of each sequence, one and the same number for the others, ``[B, S]``.

    A token's redundancy is the mean of its row of the token-token map of cosines. Of n tokens ``floor(ratio n)`` are
    left out and n - 1 at most; the rest weigh ``n / kept``, so that the weights of a sequence sum to n.

    Args:
        hidden: ``[B, S, H]``, without gradient.
        mask: true where there is a token, boolean ``[B, S]``.
        ratio: share that is left out, from 0 to below 1.
    """
    directions = torch.where(mask[:, :, None], nn.functional.normalize(hidden, dim=-1), 0)
    # Not divided by n, which all tokens of a sequence share; nor is the map needed, only the sums of its rows.
    redundancy = torch.linalg.vecdot(directions, directions.sum(1, keepdim=True))
    order = torch.where(mask, redundancy, torch.inf).argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    num_tokens = mask.sum(1, keepdim=True)
    num_kept = num_tokens - (num_tokens * ratio).floor().long()
    kept = mask & (rank < num_kept)
    return kept * (num_tokens / num_kept.clamp_min(1))
