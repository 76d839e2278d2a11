"""Hybrid Distillation, the relations: how the tokens of a sequence attend to each other, from one teacher.

Shape letters: B examples, S positions, h heads, d width of a head, R relation heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hf_distill import Paper

from .hybrid import HybridLoss

RELATIONS = {
    "query_key": ("query", "key"),
    "query_query": ("query", "query"),
    "key_key": ("key", "key"),
    "value_value": ("value", "value"),
}
_MASKED = -1e4  # far below any scaled product, and finite, so that 0 * log 0 is 0


class HybridRelations(HybridLoss):
    """KL(teacher || student) between token-token relations ``softmax(A B^T / sqrt(d))``.

    The relations come from a teacher that was trained to fill in what is masked, whose tokens stay different;
    `hybrid_features`, of another teacher, goes beside it. Vectors of all heads are joined and cut again into relation
    heads, so that widths and numbers of heads may differ. Per token the mean over relation heads and relations; tokens
    that are left out (see `HybridLoss`) neither relate nor are related to.

    After the paper's description: Shi et al. 2023, "Hybrid Distillation: Connecting Masked Autoencoders with
    Contrastive Learners", arXiv:2306.15876. Which layers, relations and shares are the paper's is not known to us;
    there the masked tokens leave the student, here only the loss.

    Args:
        relations: which of "query_key", "query_query", "key_key", "value_value".
        num_relation_heads: R; by default the student's attention heads.
        masking: see `HybridLoss`.
        layers: pairs of blocks, by default the last ones.
        stack: see `HybridLoss`.

    Raises:
        ValueError: an option out of its range.
    """

    paper = Paper(
        "Shi et al.",
        2023,
        title="Hybrid Distillation: Connecting Masked Autoencoders with Contrastive Learners",
        arxiv="2306.15876",
    )

    def __init__(
        self,
        *,
        relations: Sequence[str] = ("query_key",),
        num_relation_heads: int | None = None,
        masking: float = 0.0,
        layers: str | Sequence[Sequence[int]] = ((-1, -1),),
        stack: str | None = None,
    ) -> None:
        super().__init__(masking=masking, layers=layers, stack=stack)
        if isinstance(relations, str) or not relations or not set(relations) <= set(RELATIONS):
            raise ValueError(f"relations is {relations!r}; expected a list of some of {', '.join(RELATIONS)}.")
        self.relations = [RELATIONS[name] for name in relations]
        self.kinds = list(dict.fromkeys(kind for relation in self.relations for kind in relation))
        self.num_relation_heads = num_relation_heads

    def tap_names(self, block: int) -> tuple[str, ...]:
        """What the relations are between, and the hidden states that decide on redundancy."""
        return (*(f"{self.prefix}{kind}.{block}" for kind in self.kinds), self.hidden_tap(block))

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Weighted KL of each token."""
        weights = self.weights(pair, student[-1], mask)
        num_heads = self.num_relation_heads or student[0].shape[1]
        divergence = torch.zeros_like(weights)
        for first, second in self.relations:
            log_q, log_p = (
                relation_log_probs(
                    features[self.kinds.index(first)], features[self.kinds.index(second)], weights > 0, num_heads
                )
                for features in (student, teacher)
            )
            divergence = divergence + (log_p.exp() * (log_p - log_q)).sum(-1).mean(1)
        return (weights * divergence / len(self.relations))[mask]


def relation_log_probs(first: Tensor, second: Tensor, kept: Tensor, num_relation_heads: int) -> Tensor:
    """Log-probabilities of each token's relation to the kept ones, ``[B, R, S, S]``.

    Args:
        first: ``[B, h, S, d]``.
        second: the same; may have fewer heads, which then serve several of `first`.
        kept: boolean ``[B, S]``.
        num_relation_heads: R.

    Raises:
        ValueError: R does not divide the width.
    """
    num_heads = max(first.shape[1], second.shape[1])
    joined = []
    for vectors in (first, second):
        repeated = vectors.repeat_interleave(num_heads // vectors.shape[1], dim=1)
        joined.append(repeated.transpose(1, 2).flatten(2))
    width = joined[0].shape[-1]
    if width % num_relation_heads:
        raise ValueError(
            f"hybrid_relations cuts vectors of width {width} into {num_relation_heads} relation heads; "
            "set num_relation_heads to a divisor of every width."
        )
    left, right = (part.unflatten(-1, (num_relation_heads, -1)).transpose(1, 2) for part in joined)
    products = left @ right.transpose(-1, -2) / (width / num_relation_heads) ** 0.5
    log_probs: Tensor = products.masked_fill(~kept[:, None, None, :], _MASKED).log_softmax(-1)
    return log_probs
