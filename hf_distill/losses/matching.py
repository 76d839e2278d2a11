"""What losses on features share: which layers are compared, over which positions, in which precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batch.signals import Batch, Signal
from ..models.layers import is_encoder_decoder, match_layers
from .base import BatchLoss
from .rowwise import as_float32


class FeatureLoss(BatchLoss):
    """Base of losses that compare features of the student with features of the teacher, pair by pair of layers.

    The sum runs over tokens (padding excluded) and is the mean over pairs, so that its weight does not depend on how
    many layers are compared. Where a batch has no token mask (images), it runs over examples, and each example's value
    is the mean over its positions. Everything is computed in float32, under autocast too.

    Subclasses define `tap_names`, the features of one pair of layers, and `values`.

    Args:
        layers: pairs of blocks, see `hf_distill.models.features.match_layers`.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.
    """

    def __init__(self, *, layers: str | Sequence[Sequence[int]] = "auto", stack: str | None = None) -> None:
        super().__init__()
        self.layers = layers
        self.stack = stack
        self.pairs: list[tuple[int, int]] = []

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Find the pairs of layers and name their features.

        Raises:
            ValueError: there is no teacher model, or the layers do not exist.
        """
        if teacher is None:
            raise ValueError(
                f"{type(self).__name__} compares features: it needs a teacher model, which a cache or a server is not."
            )
        if self.stack is None:
            self.stack = "decoder" if is_encoder_decoder(student) else ""
        self.pairs = match_layers(student, teacher, self.layers, stack=self.stack)
        self.name_taps()

    def name_taps(self) -> None:
        """Set `student_taps` and `teacher_taps` from `pairs`."""
        self.student_taps = tuple(name for block, _ in self.pairs for name in self.tap_names(block))
        self.teacher_taps = tuple(name for _, block in self.pairs for name in self.tap_names(block))

    def tap_names(self, block: int) -> tuple[str, ...]:
        """The features of one block, with the stack's prefix (see `prefix`)."""
        raise NotImplementedError(f"{type(self).__name__} does not define tap_names(block).")

    def values(self, pair: int, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
        """Values of one pair of layers.

        Args:
            pair: its place in `pairs`.
            student: its features, as `tap_names` lists them, in float32.
            teacher: the same of the teacher, in float32 and without gradient.
            mask: boolean ``[B, S]``, or ``[B]`` for batches without a token mask.

        Returns:
            ``[n]`` values, one for each true entry of the mask; ``[n, P]`` where the mask is ``[B]``.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define values(pair, student, teacher, mask).")

    @property
    def prefix(self) -> str:
        """What the names of features begin with: the stack and a dot, or nothing."""
        return f"{self.stack}." if self.stack else ""

    def mask(self, batch: Batch) -> Tensor:
        """Where the compared stack has tokens: ``[B, S]``, or ``[B]`` where the batch knows no tokens.

        Raises:
            ValueError: the encoder is compared and the batch has no attention mask.
        """
        if self.stack != "encoder":
            return batch.token_mask
        attention_mask = batch.inputs.get("attention_mask")
        if not isinstance(attention_mask, Tensor):
            raise ValueError(f'{type(self).__name__} on the encoder needs "attention_mask" in the batch.')
        # The encoder's tokens, without examples that only fill up the batch.
        return attention_mask.bool() & batch.token_mask.flatten(1).any(dim=1, keepdim=True)

    def count(self, batch: Batch) -> Tensor:
        """Tokens of the compared stack."""
        return self.mask(batch).sum()

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Sum over tokens of the mean over pairs of layers.

        Raises:
            ValueError: student and teacher saw different positions.
        """
        mask = self.mask(batch)
        total = torch.zeros((), dtype=torch.float32, device=mask.device)
        with torch.autocast(mask.device.type, enabled=False):
            for pair, (student_block, teacher_block) in enumerate(self.pairs):
                student_features = [as_float32(student.features[name]) for name in self.tap_names(student_block)]
                teacher_features = [
                    as_float32(teacher.features[name]).detach() for name in self.tap_names(teacher_block)
                ]
                self._check_positions(student_features[0], teacher_features[0], mask)
                values = self.values(pair, student_features, teacher_features, mask)
                total = total + (values.mean(-1) if mask.dim() == 1 else values).sum()
        return total / len(self.pairs)

    def _check_positions(self, student: Tensor, teacher: Tensor, mask: Tensor) -> None:
        # Features are [B, S, H] or [B, heads, S, .]: positions are the last but one.
        student_sizes, teacher_sizes = (student.shape[0], student.shape[-2]), (teacher.shape[0], teacher.shape[-2])
        if student_sizes != teacher_sizes or student_sizes[: mask.dim()] != tuple(mask.shape):
            raise ValueError(
                f"{type(self).__name__}: the student's features have {student_sizes} examples and positions, the "
                f"teacher's {teacher_sizes}, the batch's mask {tuple(mask.shape)}; both must see the same tokens."
            )


def kl_divergence(teacher_log_probs: Tensor, student_log_probs: Tensor) -> Tensor:
    """KL(teacher || student) over the last dimension, of finite log-probabilities."""
    return (teacher_log_probs.exp() * (teacher_log_probs - student_log_probs)).sum(-1)
