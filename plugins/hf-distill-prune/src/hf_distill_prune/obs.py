"""Removing columns of a linear map by the second-order update (optimal brain surgeon), with the least squared error.

The map is a weight W of shape [o, d]; its inputs are the rows of X, [n, d]; all of what they say here is in
``H = X^T X``, [d, d]. A *structure* is a run of `width` neighbouring columns: an attention head in the projection out
of attention (width of a head), or one neuron in the second matrix of an MLP (1). The error of another weight is
``E = || X (W' - W)^T ||^2 = tr((W' - W) H (W' - W)^T)``.

Paper: Kurtic, Frantar and Alistarh 2023, "ZipLM: Inference-Aware Structured Pruning of Language Models",
arXiv:2302.04089, after its description. H is without the factor of 2 of the paper, which cancels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def damped(moment: Tensor, damping: float) -> Tensor:
    """``H + damping mean(diag H) I``, in float64: inputs that never vary leave H without an inverse.

    Args:
        moment: H, ``[d, d]``.
        damping: relative to the mean of the diagonal; of a moment of zeros, absolute.
    """
    moment = moment.double()
    scale = moment.diagonal().mean()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return moment + damping * scale * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)


def structure_scores(weight: Tensor, inverse: Tensor, width: int) -> Tensor:
    """What the error grows by if a structure S goes and the others make up for it: tr(W_S ((H^-1)_SS)^-1 W_S^T).

    Args:
        weight: W, ``[o, d]``.
        inverse: of H, ``[d, d]``.
        width: columns of a structure; divides d.

    Returns:
        ``[d / width]``.
    """
    count = weight.shape[1] // width
    places = torch.arange(count, device=weight.device)
    own = inverse.view(count, width, count, width)[places, :, places, :]  # (H^-1)_SS, [count, width, width]
    parts = weight.view(len(weight), count, width)
    return torch.einsum("onv,nvw,onw->n", parts, torch.linalg.inv(own), parts)


def remove_structure(weight: Tensor, inverse: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """Take columns away and let the others make up for it; the columns stay, as zeros.

    ``W <- W - W_S ((H^-1)_SS)^-1 (H^-1)_S,:`` and the same elimination of S from H^-1, whose rows and columns of S
    become zeros.

    Args:
        weight: W, ``[o, d]``.
        inverse: of H restricted to the columns that are left, ``[d, d]``.
        columns: S.
    """
    factor = torch.linalg.solve(inverse[columns, columns], inverse[columns])  # [width, d]
    weight = weight - weight[:, columns] @ factor
    inverse = inverse - inverse[:, columns] @ factor
    weight[:, columns] = 0
    inverse[columns] = 0
    inverse[:, columns] = 0
    return weight, inverse


@dataclass(frozen=True)
class Removal:
    """In which order structures go, one at a time, and what it costs.

    Attributes:
        order: the structures, the first to go first.
        errors: E after so many have gone, from none to all; ``len(order) + 1`` numbers that do not fall.
        total: E of no output at all, ``tr(W H W^T)``.
    """

    order: list[int]
    errors: list[float]
    total: float

    def kept(self, count: int) -> list[int]:
        """The `count` structures that stay the longest, in their old order: those of fewer are among those of more."""
        return sorted(self.order[len(self.order) - count :])

    def relative_error(self, count: int) -> float:
        """The norm of the error where `count` structures stay, over that of the output: 1 where all go."""
        error = self.errors[len(self.order) - count]
        return min((max(error, 0.0) / self.total) ** 0.5, 1.0) if self.total > 0 else 0.0


def removal_order(weight: Tensor, moment: Tensor, width: int = 1) -> Removal:
    """Remove the structure that costs least, update what is left, and so on until all have gone.

    One at a time, since of two structures that say the same only one can go for nothing.

    Args:
        weight: W, ``[o, d]``.
        moment: H, ``[d, d]``, which has an inverse (see `damped`).
        width: columns of a structure.
    """
    weight, moment = weight.double(), moment.double()
    total = float((weight @ moment * weight).sum())
    inverse = torch.linalg.inv(moment)
    count = weight.shape[1] // width
    gone = torch.zeros(count, dtype=torch.bool, device=weight.device)
    order, errors = [], [0.0]
    for _ in range(count):
        # What has gone has a block of zeros, for which ones stand in.
        filled = inverse + torch.diag(gone.repeat_interleave(width).to(inverse.dtype))
        scores = structure_scores(weight, filled, width).masked_fill(gone, torch.inf)
        chosen = int(scores.argmin())
        errors.append(errors[-1] + float(scores[chosen]))
        weight, inverse = remove_structure(weight, inverse, slice(chosen * width, (chosen + 1) * width))
        gone[chosen] = True
        order.append(chosen)
    return Removal(order, errors, total)


def refit(weight: Tensor, moment: Tensor, columns: Tensor) -> Tensor:
    """The weight with the least error among those on these columns, ``W H_:,K (H_KK)^-1``; zeros elsewhere.

    This is where `remove_structure` ends, whatever the order in which the others went.

    Args:
        weight: W, ``[o, d]``.
        moment: H, ``[d, d]``, which has an inverse.
        columns: K, indices.

    Returns:
        ``[o, d]``, in float64.
    """
    weight, moment = weight.double(), moment.double()
    result = torch.zeros_like(weight)
    if len(columns):
        right = moment[columns] @ weight.T  # [K, o]
        result[:, columns] = torch.linalg.solve(moment[columns][:, columns], right).T
    return result
