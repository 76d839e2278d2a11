"""MiniLMv2: relations between the tokens of a sequence, as the queries, keys and values of one layer see them.

Shape letters: B examples, S positions, h heads, d width of a head, R relation heads, n tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .matching import FeatureLoss, kl_divergence
from .papers import Paper

_MASKED = -1e4  # far below any scaled product, and finite, so that 0 * log 0 is 0


class MiniLMRelations(FeatureLoss):
    """KL(teacher || student) between query-query, key-key and value-value relations.

    The vectors of all heads are joined and cut again into R relation heads of width d_r; the relation of a token is
    ``softmax(A A^T / sqrt(d_r))`` over all tokens of its sequence, for A among queries, keys and values. Neither widths
    nor numbers of heads need to be equal, only R must divide each width.

    Per token the value is the mean over relation heads and over the three relations, which is the paper's
    ``1/(A_r |x|)`` with its weights alpha = 1/3. Padding is left out both as the token that relates and as what it
    relates to. No causal mask is applied, as in the paper, whose models are encoders; for causal language models the
    option `causal` restricts each token to itself and what came before it. Vectors are taken as the projections give
    them: with grouped queries keys and values have fewer heads (and a smaller d_r), and rotary embeddings have not been
    applied.

    Paper: MiniLMv2 (Wang et al. 2020, arXiv:2012.15828), equations 2 to 4.

    Args:
        num_relation_heads: R; the paper uses 48 for base and 64 for large teachers.
        student_layer: the student's block, the last one by default.
        teacher_layer: the teacher's block, the last one by default; for large teachers the paper takes an upper-middle
            one.
        causal: relate each token only to itself and to earlier ones.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.
    """

    paper = Paper("Wang et al.", 2020, name="MiniLMv2", arxiv="2012.15828")

    def __init__(
        self,
        *,
        num_relation_heads: int = 48,
        student_layer: int = -1,
        teacher_layer: int = -1,
        causal: bool = False,
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=[[student_layer, teacher_layer]], stack=stack)
        self.num_relation_heads = num_relation_heads
        self.causal = causal

    def tap_names(self, block: int) -> tuple[str, ...]:
        """Queries, keys and values of a block."""
        return tuple(f"{self.prefix}{kind}.{block}" for kind in ("query", "key", "value"))

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Mean over the three relations and their heads.

        Raises:
            ValueError: the number of relation heads does not divide a width.
        """
        losses = [
            kl_divergence(self._relation(teacher_vectors, mask), self._relation(student_vectors, mask)).mean(1)
            for student_vectors, teacher_vectors in zip(student, teacher, strict=True)
        ]
        return torch.stack(losses).mean(0)

    def _relation(self, vectors: Tensor, mask: Tensor) -> Tensor:
        """Log-probabilities ``[n, R, S]`` (``[n, R, S, S]`` where the mask is ``[B]``) from ``[B, h, S, d]``."""
        joined = vectors.transpose(1, 2).flatten(2)
        if joined.shape[-1] % self.num_relation_heads:
            raise ValueError(
                f"num_relation_heads is {self.num_relation_heads} and does not divide the width {joined.shape[-1]} of "
                f"the {vectors.shape[1]} heads of width {vectors.shape[-1]}; choose a divisor of every width."
            )
        cut = joined.view(*joined.shape[:2], self.num_relation_heads, -1).transpose(1, 2)  # [B, R, S, d_r]
        products = torch.matmul(cut, cut.transpose(-1, -2)) / cut.shape[-1] ** 0.5
        if self.causal:
            later = torch.ones(products.shape[-2:], dtype=torch.bool, device=products.device).triu(1)
            products = products.masked_fill(later, _MASKED)
        if mask.dim() == 1:
            return torch.log_softmax(products[mask], -1)
        products = products.masked_fill(~mask[:, None, None, :], _MASKED)
        return torch.log_softmax(products.transpose(1, 2)[mask], -1)
