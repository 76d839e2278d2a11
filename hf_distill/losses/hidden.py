"""Losses on hidden states: mean squared error and cosine distance, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..models.layers import hidden_width
from .feature_projections import make_projections
from .matching import FeatureLoss
from .papers import Paper


class HiddenLoss(FeatureLoss):
    """Base of losses that compare one projected hidden vector of the student with one of the teacher, per token.

    The output of student block s is compared with that of teacher block t (raw, before any final norm).

    Args:
        layers: pairs of blocks: "auto", "last_of_block", "every_k", "uniform", "top" or a list of
            [student block, teacher block].
        projection: "auto" (a linear map where the widths differ), "linear" or "none".
        shared_projection: one map for all pairs instead of one each.
        embeddings: compare the input of the first block as well, as one more pair.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.
    """

    def __init__(
        self,
        *,
        layers: str | Sequence[Sequence[int]] = "auto",
        projection: str = "auto",
        shared_projection: bool = False,
        embeddings: bool = False,
        stack: str | None = None,
    ) -> None:
        super().__init__(layers=layers, stack=stack)
        self.projection = projection
        self.shared_projection = shared_projection
        self.embeddings = embeddings
        self.projections = nn.ModuleList()

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Find the layers and make the projections.

        Raises:
            ValueError: no teacher model, layers that do not exist, or unequal widths without projection.
        """
        super().setup(student, teacher, tokenizer)
        assert teacher is not None  # checked above
        if self.embeddings:
            self.pairs = [(-1, -1), *self.pairs]  # "after block -1" is the input of block 0
            self.name_taps()
        stack = self.stack or ""
        self.projections = make_projections(
            hidden_width(student, stack),
            hidden_width(teacher, stack),
            len(self.pairs),
            kind=self.projection,
            shared=self.shared_projection,
        )

    def tap_names(self, block: int) -> tuple[str, ...]:
        """The output of a block."""
        return (f"{self.prefix}hidden.{block + 1}",)

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """`distance` of the vectors of all tokens."""
        projection = self.projections[0 if self.shared_projection else pair]
        return self.distance(projection(student[0][mask]), teacher[0][mask])

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The distance of vectors ``[..., H]`` of equal width, ``[...]``."""
        raise NotImplementedError(f"{type(self).__name__} does not define distance(student, teacher).")


class HiddenMSE(HiddenLoss):
    """Mean squared error between hidden states: per token ``mean over H of (W h_student - h_teacher)^2``.

    Being a mean over H, its size does not depend on the teacher's width. With `normalize` both vectors are divided by
    their length first and the squares are summed: per token ``|| W h_s / |W h_s| - h_t / |h_t| ||^2``, in [0, 4].

    Paper: TinyBERT (Jiao et al. 2020, arXiv:1909.10351), equation 8; normalised: Patient KD (Sun et al. 2019,
    arXiv:1908.09355), on every token rather than the first alone. Deviation: the mean over layers, not their sum.

    Args:
        normalize: compare directions only.
        layers: see `HiddenLoss`.
        projection: see `HiddenLoss`.
        shared_projection: see `HiddenLoss`.
        embeddings: see `HiddenLoss`.
        stack: see `HiddenLoss`.
    """

    paper = Paper("Jiao et al.", 2020, name="TinyBERT", arxiv="1909.10351")

    def __init__(
        self,
        *,
        normalize: bool = False,
        layers: str | Sequence[Sequence[int]] = "auto",
        projection: str = "auto",
        shared_projection: bool = False,
        embeddings: bool = False,
        stack: str | None = None,
    ) -> None:
        super().__init__(
            layers=layers,
            projection=projection,
            shared_projection=shared_projection,
            embeddings=embeddings,
            stack=stack,
        )
        self.normalize = normalize

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Squared error of ``[..., H]``, mean over H (sum, where normalised)."""
        if self.normalize:
            normalized = nn.functional.normalize(student, dim=-1) - nn.functional.normalize(teacher, dim=-1)
            return normalized.square().sum(-1)
        return (student - teacher).square().mean(-1)


class HiddenCosine(HiddenLoss):
    """Cosine distance between hidden states: per token ``1 - cos(W h_student, h_teacher)``, in [0, 2].

    Paper: DistilBERT (Sanh et al. 2019, arXiv:1910.01108), which compares the last layer only (``layers=[[-1, -1]]``).
    """

    paper = Paper("Sanh et al.", 2019, name="DistilBERT", arxiv="1910.01108")

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One minus the cosine of ``[..., H]``."""
        return 1 - nn.functional.cosine_similarity(student, teacher, dim=-1)
