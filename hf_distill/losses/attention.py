"""A loss on attention: where each token of the student looks, compared with where the teacher's looks.

Shape letters: n tokens, h heads, K keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .matching import FeatureLoss, kl_divergence
from .papers import Paper

KINDS = ("scores_mse", "probabilities_kl")
HEADS = ("auto", "each", "mean")

# Models add something between -10^4 and the most negative number of their dtype to the scores of masked keys.
_MASKED = -5e3


class AttentionTransfer(FeatureLoss):
    """Compares attention maps, one query (token) at a time; queries that are padding are left out.

    - "scores_mse": mean squared error of the scores before the softmax, per query the mean over heads and over the
      keys that both models may look at. TinyBERT (Jiao et al. 2020, arXiv:1909.10351), equation 7. Deviation: there the
      mean runs over padding as well, so that an example's value depends on how it was padded.
    - "probabilities_kl": KL(teacher || student) of the attention probabilities, per query summed over keys, mean over
      heads. MobileBERT (Sun et al. 2020, arXiv:2004.02984), attention transfer. Computed from the scores, hence exact
      for probabilities that underflow, and before dropout.

    Both are the mean over pairs of layers, not their sum. Student and teacher must have equal sequences; their
    attention is switched to the eager kind.

    Args:
        kind: "scores_mse" or "probabilities_kl".
        heads: "each" compares head with head, "mean" the averages over heads (of scores, or of probabilities), "auto"
            each where student and teacher have equally many and the averages otherwise.
        layers: pairs of blocks, see `hf_distill.models.features.match_layers`.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder (self-attention).
    """

    paper = Paper("Jiao et al.", 2020, name="TinyBERT", arxiv="1909.10351")

    def __init__(
        self,
        *,
        kind: str = "scores_mse",
        heads: str = "auto",
        layers: str | Sequence[Sequence[int]] = "auto",
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, stack=stack)
        if kind not in KINDS:
            raise ValueError(f"kind is {kind!r}; expected one of {', '.join(KINDS)}.")
        if heads not in HEADS:
            raise ValueError(f"heads is {heads!r}; expected one of {', '.join(HEADS)}.")
        self.kind = kind
        self.heads = heads

    def tap_names(self, block: int) -> tuple[str, ...]:
        """The scores of a block."""
        return (f"{self.prefix}scores.{block}",)

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Mean over heads of the chosen divergence.

        Raises:
            ValueError: unequal numbers of heads with ``heads="each"``.
        """
        # [B, h, S, K] to the queries that count: [n, h, K], or [n, h, P, K] where the mask is [B].
        student_scores, teacher_scores = (
            _of_queries(scores[0].clamp_min(_MASKED), mask) for scores in (student, teacher)
        )
        num_student_heads, num_teacher_heads = student_scores.shape[1], teacher_scores.shape[1]
        if self.heads == "each" and num_student_heads != num_teacher_heads:
            raise ValueError(
                f'heads is "each", but student block {self.pairs[pair][0]} has {num_student_heads} heads and teacher '
                f'block {self.pairs[pair][1]} has {num_teacher_heads}; use "mean" or "auto".'
            )
        average = self.heads == "mean" or num_student_heads != num_teacher_heads
        if self.kind == "scores_mse":
            if average:
                student_scores = student_scores.mean(1, keepdim=True)
                teacher_scores = teacher_scores.mean(1, keepdim=True)
            visible = (student_scores > _MASKED) & (teacher_scores > _MASKED)
            squares = torch.where(visible, (student_scores - teacher_scores).square(), 0)
            return (squares.sum(-1) / visible.sum(-1).clamp_min(1)).mean(1)
        student_log_probs, teacher_log_probs = student_scores.log_softmax(-1), teacher_scores.log_softmax(-1)
        if average:
            student_log_probs = _mean_of_distributions(student_log_probs)
            teacher_log_probs = _mean_of_distributions(teacher_log_probs)
        return kl_divergence(teacher_log_probs, student_log_probs).mean(1)


def _of_queries(scores: Tensor, mask: Tensor) -> Tensor:
    if mask.dim() == 1:
        return scores[mask]
    return scores.transpose(1, 2)[mask]


def _mean_of_distributions(log_probs: Tensor) -> Tensor:
    """Logarithm of the mean over heads (dimension 1, kept)."""
    return log_probs.logsumexp(1, keepdim=True) - math.log(log_probs.shape[1])
