"""Dual-Head KD: the labels at the student's own head, the teacher's logits at a second one.

Shape letters: B examples, H width of the features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Float32Linear, GradientMergingMixin, Paper, Signal

from .binary_kl import binary_kl
from .examples import classifier_path, last_token, logits_of, num_classes


class DualHead(GradientMergingMixin, BatchLoss):
    """`binary_kl` of the teacher's logits and those of a second head on the features that the student's head reads.

    Labels and logits pull the weights of one head in opposite directions, while the features below profit from both.
    Name `task` beside this loss, for the first head. The second one is trained along, saved beside the student and not
    part of the exported model.

    With `gradient_alignment`, this loss's gradient g and that of all others, g_0, are compared once per optimizer step,
    as one vector over all parameters: where they disagree (``g . g_0 < 0``), g loses its part along g_0, so that it
    never works against the labels. That needs whole gradients: DDP, but not DeepSpeed or FSDP, which are refused.

    Args:
        temperature: of both logits; values are multiplied by its square.
        hidden_width: None for a linear head; a number (200 in the paper, on CIFAR-100) for one with a hidden layer.
        dropout: in the hidden layer.
        classifier: path of the student's last linear layer, where it cannot be found by its width.
        gradient_alignment: see above; the paper uses it on CIFAR-100, not on ImageNet.

    Raises:
        ValueError: an option out of its range.

    Paper: Yang et al. (2024), Dual-Head Knowledge Distillation, arXiv:2411.08937; the alignment after PCGrad (Yu et al.
        2020, arXiv:2001.06782). The weight is 1 on CIFAR-100, 0.1 on ImageNet. Deviations: the hidden layer has layer
        instead of batch normalisation, so that a step may be cut in any way; the alignment sees the gradient of the
        whole step, where the authors' code knows neither accumulation nor several processes.
    """

    paper = Paper("Yang et al.", 2024, title="Dual-Head Knowledge Distillation", arxiv="2411.08937")
    items = "rows"
    needs_teacher_rows = True

    def __init__(
        self,
        *,
        temperature: float = 2.0,
        hidden_width: int | None = None,
        dropout: float = 0.1,
        classifier: str | None = None,
        gradient_alignment: bool = False,
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        if hidden_width is not None and hidden_width < 1:
            raise ValueError(f"hidden_width is {hidden_width}; expected at least 1, or None for a linear head.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}; expected at least 0 and less than 1.")
        self.temperature, self.hidden_width, self.dropout = temperature, hidden_width, dropout
        self.classifier = classifier
        self.separate_gradients = gradient_alignment

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Make the second head.

        Raises:
            ValueError: the student is no classifier, or its last layer is not found.
        """
        classes = num_classes(student, "dual_head")
        path = classifier_path(student, classes, "dual_head", self.classifier)
        width = student.get_submodule(path).in_features
        assert isinstance(width, int)
        self.student_taps = (f"input:{path}",)
        if self.hidden_width is None:
            self.head: nn.Module = Float32Linear(width, classes)
        else:
            normalise = nn.LayerNorm(self.hidden_width, elementwise_affine=False)
            hidden = (Float32Linear(width, self.hidden_width), nn.Dropout(self.dropout), normalise, nn.ReLU())
            self.head = nn.Sequential(*hidden, Float32Linear(self.hidden_width, classes))

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """The sum over the examples that count."""
        teacher_logits = logits_of(teacher, "dual_head", whose="teacher")
        features = last_token(student.features[self.student_taps[0]], batch.token_mask)
        with torch.autocast(features.device.type, enabled=False):
            values = binary_kl(self.head(features) / self.temperature, teacher_logits / self.temperature)
        return self.temperature**2 * torch.where(batch.row_mask, values, 0).sum()

    def merge_gradients(self, gradients: Sequence[Tensor], other_gradients: Sequence[Tensor]) -> list[Tensor]:
        """Their sum, the first without what opposes the second."""
        return align(gradients, other_gradients)


def align(gradients: Sequence[Tensor], other_gradients: Sequence[Tensor]) -> list[Tensor]:
    """``g_0 + g - min(0, g . g_0) / |g_0|^2 g_0`` for `gradients` g and `other_gradients` g_0, a tensor a parameter.

    Paper: Yang et al. (2024), arXiv:2411.08937; Yu et al. (2020), arXiv:2001.06782, algorithm 1, with g_0 left whole.
    """
    product = torch.stack([(g * g0).sum() for g, g0 in zip(gradients, other_gradients, strict=True)]).sum()
    square = torch.stack([g0.square().sum() for g0 in other_gradients]).sum()
    opposed = product.clamp(max=0) / square.clamp(min=torch.finfo(square.dtype).tiny)
    return [g + (1 - opposed) * g0 for g, g0 in zip(gradients, other_gradients, strict=True)]
