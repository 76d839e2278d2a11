"""A memory of what two models last said of every example, and the contrast of new vectors with it.

Shape letters: B examples of a batch, N examples of the data set, D width, K negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .pooled import masked_mean

_SMALL = 1e-7


class ContrastMemory(nn.Module):
    """Vectors of length one of all N training examples, by student and teacher, with a running mean.

    Args:
        num_examples: N.
        width: D.
        num_negatives: K, drawn anew each time among the other examples; all of them where there are no more.
        temperature: scores are divided by it.
        momentum: share of the old vector that stays.
    """

    student: Tensor
    teacher: Tensor
    normalizers: Tensor

    def __init__(
        self, num_examples: int, width: int, *, num_negatives: int, temperature: float, momentum: float
    ) -> None:
        super().__init__()
        self.num_negatives = min(num_negatives, num_examples - 1)
        self.temperature = temperature
        self.momentum = momentum
        self._new: list[tuple[Tensor, ...]] = []
        limit = (3 / width) ** 0.5  # uniform numbers below it have length one on average
        for name in ("student", "teacher"):
            self.register_buffer(name, torch.empty(num_examples, width).uniform_(-limit, limit))
        self.register_buffer("normalizers", torch.zeros(2))  # zero until the first step sets them

    def forward(self, student: Tensor, teacher: Tensor, ids: Tensor, present: Tensor) -> Tensor:
        """The loss of each example, ``[B]``.

        In training mode positives come from the memory, and the new vectors wait for `advance`. Otherwise the examples
        are not those of the memory: the positive is the other model's own vector, negatives are the first K.

        Args:
            student: vectors of length one, ``[B, D]``.
            teacher: the same of the teacher.
            ids: whose they are, ``[B]``.
            present: which of them count, boolean ``[B]``.
        """
        negatives = self._draw(ids) if self.training else torch.arange(self.num_negatives, device=ids.device)
        negatives = negatives.expand(len(ids), -1)
        sides = ((student, teacher, self.teacher), (teacher, student, self.student))
        scores = []
        for anchor, other, memory in sides:
            # One product with the whole memory is far smaller than the K vectors of each example.
            products = anchor @ memory.to(anchor.dtype).T
            positive = (anchor * other.detach()).sum(1, keepdim=True)
            if self.training:
                positive = products.gather(1, ids[:, None])
            scores.append((torch.cat([positive, products.gather(1, negatives)], 1) / self.temperature).exp())
        side_means = [masked_mean(side_scores.detach().mean(1), present) for side_scores in scores]
        means = torch.stack(side_means) * len(self.student)
        known = self.normalizers.to(means.dtype)
        normalizers = torch.where(known > 0, known, means.clamp_min(_SMALL))
        if self.training:
            self._new.append((student.detach(), teacher.detach(), ids, present, means[None]))
        num_examples = len(self.student)
        return contrast(scores[0] / normalizers[0], num_examples) + contrast(scores[1] / normalizers[1], num_examples)

    @torch.no_grad()
    def advance(self) -> None:
        """Move towards the vectors that came since the last time, on all processes, which thus keep one memory."""
        if not self._new:
            return
        student, teacher, ids, present, means = (_gathered(torch.cat(parts)) for parts in zip(*self._new, strict=True))
        self._new.clear()
        # The normalisation constants stay as they are after the first step.
        self.normalizers.copy_(torch.where(self.normalizers > 0, self.normalizers, means.mean(0)))
        for memory, vectors in ((self.student, student), (self.teacher, teacher)):
            old = memory[ids].to(vectors.dtype)
            moved = nn.functional.normalize(self.momentum * old + (1 - self.momentum) * vectors, dim=1)
            memory.index_copy_(0, ids, torch.where(present[:, None], moved, old).to(memory.dtype))

    def _draw(self, ids: Tensor) -> Tensor:
        """K others for each example, ``[B, K]``."""
        num_others = len(self.student) - 1
        shape = len(ids), self.num_negatives
        if self.num_negatives == num_others:
            others = torch.arange(num_others, device=ids.device).expand(shape)
        else:
            others = torch.randint(num_others, shape, device=ids.device)
        return others + (others >= ids[:, None])  # skips the example itself


def contrast(scores: Tensor, num_examples: int) -> Tensor:
    """``-log h(positive) - sum log(1 - h(negative))`` with ``h(s) = s / (s + K / N)``, ``[B]``.

    Args:
        scores: normalised, the positive first, ``[B, 1 + K]``.
        num_examples: N.
    """
    noise = (scores.shape[1] - 1) / num_examples
    positive = (scores[:, 0] / (scores[:, 0] + noise + _SMALL)).log()
    negatives = (noise / (scores[:, 1:] + noise + _SMALL)).log()
    return -(positive + negatives.sum(1))


def _gathered(tensor: Tensor) -> Tensor:
    """The rows of all processes, which have equally many: accelerate evens out batches."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return tensor
    rows = tensor.new_empty(torch.distributed.get_world_size() * len(tensor), *tensor.shape[1:])
    torch.distributed.all_gather_into_tensor(rows, tensor.contiguous())
    return rows
