"""What both losses of Hybrid Distillation share: the tokens that they leave out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import FeatureLoss, num_blocks

from .redundancy import token_weights


class HybridLoss(FeatureLoss):
    """Base of `hybrid_relations` and `hybrid_features`.

    With `masking`, the most redundant tokens of each sequence do not count: those whose hidden states at the compared
    block of the **student** are nearest to all others', by the mean cosine. The share grows linearly with depth and is
    `masking` at the student's last block. Since the student decides, both losses leave out the same tokens where they
    compare the same block. The others weigh more, so that a sequence counts as before.

    Args:
        masking: share of the tokens left out at the last block.
        layers: pairs of blocks, see `FeatureLoss`.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.

    Raises:
        ValueError: `masking` is no such share.
    """

    def __init__(
        self,
        *,
        masking: float = 0.0,
        layers: str | Sequence[Sequence[int]] = ((-1, -1),),
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, stack=stack)
        if not 0 <= masking < 1:
            raise ValueError(f"masking is {masking}; expected the share of tokens to leave out, from 0 to below 1.")
        self.masking = masking

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the layers.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        super().setup(student, teacher, tokenizer)
        self.depth = num_blocks(student, self.stack or "")

    def hidden_tap(self, block: int) -> str:
        """The output of a block."""
        return f"{self.prefix}hidden.{block + 1}"

    def weights(self, pair: int, hidden: Tensor, mask: Tensor) -> Tensor:
        """Weights of the tokens, ``[B, S]``: 0 for padding and for what is left out.

        Args:
            pair: its place in `pairs`.
            hidden: output of the student's block, ``[B, S, H]``.
            mask: as `FeatureLoss.values` gets it.
        """
        ratio = self.masking * (self.pairs[pair][0] + 1) / self.depth
        tokens = mask if mask.dim() == 2 else torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        return token_weights(hidden.detach(), tokens, ratio)
