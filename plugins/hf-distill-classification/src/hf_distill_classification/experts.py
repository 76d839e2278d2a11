"""A classifier with several heads, each an expert of its own: the student of MDCS.

Shape letters: H width of the features, C classes, K experts.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from hf_distill import Float32Linear, as_float32

from .examples import classifier_path, num_classes


def experts(
    model: PreTrainedModel, *, num_experts: int = 3, scale: float = 30.0, classifier: str | None = None
) -> None:
    """Replace a classifier's last linear layer by several experts; its logits are their mean.

    An expert is a hidden layer with a residual connection and a `CosineLinear`. The loss `mdcs` trains them to differ.

    Args:
        model: changed in place.
        num_experts: K.
        scale: of the cosines.
        classifier: path of the last linear layer, where it cannot be found by its width.

    Raises:
        ValueError: no classifier, its last layer is not found, or an option out of its range.

    Paper: Zhao et al. (2023), MDCS, arXiv:2308.09922. Deviation: the paper's experts have the last stages of a ResNet
        each; here everything below the last layer is shared.
    """
    if num_experts < 1 or not scale > 0:
        raise ValueError(f"num_experts is {num_experts}, scale {scale}; expected at least 1 and a positive number.")
    classes = num_classes(model, "experts")
    path = classifier_path(model, classes, "experts", classifier)
    width = model.get_submodule(path).in_features
    assert isinstance(width, int)
    model.set_submodule(path, ExpertHead(width, classes, num_experts=num_experts, scale=scale))


class ExpertHead(nn.Module):
    """K experts side by side; the mean of their logits."""

    def __init__(self, width: int, num_classes: int, *, num_experts: int, scale: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(Expert(width, num_classes, scale=scale) for _ in range(num_experts))

    def forward(self, features: Tensor) -> Tensor:
        """``[..., H]`` to ``[..., C]``."""
        return torch.stack([expert(features) for expert in self.experts]).mean(0)


class Expert(nn.Module):
    """A hidden layer and cosines with a direction for each class."""

    def __init__(self, width: int, num_classes: int, *, scale: float) -> None:
        super().__init__()
        self.hidden = Float32Linear(width, width)
        self.cosines = CosineLinear(width, num_classes, scale=scale)

    def forward(self, features: Tensor) -> Tensor:
        """``[..., H]`` to ``[..., C]``."""
        features = as_float32(features)
        logits: Tensor = self.cosines(features + nn.functional.gelu(self.hidden(features)))
        return logits


class CosineLinear(nn.Module):
    """``scale cos(x, w_c)``: a class has a direction and no length, which would be short for rare ones."""

    def __init__(self, width: int, num_classes: int, *, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, width).uniform_(-1, 1))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        """``[..., H]`` to ``[..., C]``."""
        directions = nn.functional.normalize(self.weight.to(features.dtype), dim=-1)
        return self.scale * nn.functional.linear(nn.functional.normalize(features, dim=-1), directions)
