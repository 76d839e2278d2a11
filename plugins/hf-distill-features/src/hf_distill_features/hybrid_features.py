"""Hybrid Distillation, the features: what the last block says of each token, from the other teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_distill import Float32Linear, Paper, hidden_width

from .hybrid import HybridLoss


class HybridFeatures(HybridLoss):
    """Smooth L1 between normalised hidden states, the student's after a linear map where the widths differ.

    The features come from a teacher that was trained on labels or by contrast, which tells examples apart;
    `hybrid_relations`, of another teacher, goes beside it. Both sides are normalised to mean 0 and variance 1 over the
    width; per token the mean over the width.

    After the paper's description: Shi et al. 2023, "Hybrid Distillation: Connecting Masked Autoencoders with
    Contrastive Learners", arXiv:2306.15876. That the student's side is normalised as well is our reading.

    Args:
        beta: where the square goes over into the absolute value.
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
        beta: float = 1.0,
        masking: float = 0.0,
        layers: str | Sequence[Sequence[int]] = ((-1, -1),),
        stack: str | None = None,
    ) -> None:
        super().__init__(masking=masking, layers=layers, stack=stack)
        if not beta > 0:
            raise ValueError(f"beta is {beta}; expected a positive number.")
        self.beta = beta

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the layers and make the maps.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        super().setup(student, teacher, tokenizer)
        assert teacher is not None  # checked above
        student_width, teacher_width = (hidden_width(model, self.stack or "") for model in (student, teacher))
        self.maps = nn.ModuleList(
            nn.Identity() if student_width == teacher_width else Float32Linear(student_width, teacher_width, bias=False)
            for _ in self.pairs
        )

    def tap_names(self, block: int) -> tuple[str, ...]:
        """The output of a block."""
        return (self.hidden_tap(block),)

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Weighted smooth L1 of each token."""
        weights = self.weights(pair, student[0], mask)[mask]
        student_vectors, teacher_vectors = self.maps[pair](student[0][mask]), teacher[0][mask]
        return weights * smooth_l1_of_normalized(student_vectors, teacher_vectors, self.beta)


def smooth_l1_of_normalized(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """Smooth L1 of ``[..., H]`` normalised over H, mean over H, ``[...]``."""
    normalized_student, normalized_teacher = (
        nn.functional.layer_norm(vectors, vectors.shape[-1:]) for vectors in (student, teacher)
    )
    return nn.functional.smooth_l1_loss(normalized_student, normalized_teacher, beta=beta, reduction="none").mean(-1)
