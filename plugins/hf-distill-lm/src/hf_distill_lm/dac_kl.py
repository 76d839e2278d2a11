"""DAC-KL: a small network chooses which part of the teacher's distribution is taught.

Shape letters: n rows, V vocabulary, k likely classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from hf_distill import Float32Linear, Paper, RowLoss, as_float32


class DACKL(RowLoss):
    """KL over the classes between two quantiles of the teacher's distribution, which a network sets for each row.

    The network sees the teacher's `num_classes` largest probabilities, in order, and the student's of the same classes.
    It gives the width w (at least `least_mass`) and the lower end l of an interval of the teacher's mass. A class with
    the mass c above it, half its own included, gets the weight::

        m = sigmoid((c - l) / sharpness) sigmoid((l + w - c) / sharpness)

    The teacher's most likely class and the label always have the weight 1. The value is the sum over classes of
    ``m (p log(p / q) - p + q)``: each term is zero only where q = p, none can be made negative, and with all weights at
    1 it is KL(p || q). The network learns along with the student to lower it, so it leaves out what the student cannot
    follow, down to `least_mass`.

    Args:
        num_classes: k, how many of the likely classes there are to choose from; the rest has the weight 0.
        width: hidden units of the network.
        least_mass: the least width of the interval.
        sharpness: of its ends; smaller is harder.

    Raises:
        ValueError: an option out of its range.

    Paper: Liu et al. (2024), Multi-Granularity Semantic Revision, arXiv:2407.10068, "distribution adaptive clipping".
        After the paper's description: an MLP that predicts two quantiles, classes between them and the target in the
        KL, one objective for both networks. Its input, its width, the soft ends, the least width and the terms
        -p + q, without which it could win by choosing, are a reconstruction.
    """

    paper = Paper("Liu et al.", 2024, title="Multi-Granularity Semantic Revision", arxiv="2407.10068")

    def __init__(
        self, *, num_classes: int = 64, width: int = 64, least_mass: float = 0.5, sharpness: float = 0.02
    ) -> None:
        super().__init__()
        if num_classes < 1 or width < 1:
            raise ValueError(f"num_classes is {num_classes}, width {width}; expected at least 1.")
        if not 0 <= least_mass < 1:
            raise ValueError(f"least_mass is {least_mass}; expected a share of the teacher's mass below 1.")
        if not sharpness > 0:
            raise ValueError(f"sharpness is {sharpness}; expected a positive number.")
        self.num_classes, self.width, self.least_mass, self.sharpness = num_classes, width, least_mass, sharpness
        self.hidden: Float32Linear | None = None
        self.ends: Float32Linear | None = None

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
        """Create the network; it begins with nearly the whole distribution."""
        self.hidden = Float32Linear(2 * self.num_classes, self.width)
        self.ends = Float32Linear(self.width, 2)
        with torch.no_grad():
            self.ends.weight.mul_(0.1)
            self.ends.bias.copy_(torch.tensor([3.0, 0.0]))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor, labels: Tensor) -> Tensor:
        """Values, ``[n]``."""
        teacher_logits = as_float32(teacher_logits.detach())
        student_logits = as_float32(student_logits)
        log_total_p, log_total_q = (x.logsumexp(-1, keepdim=True) for x in (teacher_logits, student_logits))
        likely, ids = teacher_logits.topk(min(self.num_classes, teacher_logits.shape[-1]), dim=-1)
        log_p, log_q = likely - log_total_p, student_logits.gather(-1, ids) - log_total_q
        p = log_p.exp()
        is_label = ids == labels[:, None]
        always = is_label.index_fill(1, ids.new_zeros(1), True)
        weights = self._weights(p, log_q.exp().detach()).masked_fill(always, 1.0)
        values = (weights * _terms(log_p, log_q)).sum(-1)
        # The label may not be among the likely classes.
        label = labels.clamp(min=0)[:, None]
        log_p, log_q = teacher_logits.gather(-1, label) - log_total_p, student_logits.gather(-1, label) - log_total_q
        return values + _terms(log_p, log_q)[:, 0].where((labels >= 0) & ~is_label.any(-1), 0.0)

    def _weights(self, p: Tensor, q: Tensor) -> Tensor:
        """Weights of the likely classes, ``[n, k]``."""
        assert self.hidden is not None, "setup makes the network"
        assert self.ends is not None
        missing = self.num_classes - p.shape[-1]  # in a smaller vocabulary
        seen = torch.cat([nn.functional.pad(x, (0, missing)) for x in (p, q)], -1)
        width, low = self.ends(self.hidden(seen).relu()).sigmoid().split(1, dim=-1)
        width = self.least_mass + (1 - self.least_mass) * width
        low = (1 - width) * low
        place = p.cumsum(-1) - p / 2
        above: Tensor = (place - low) / self.sharpness
        below: Tensor = (low + width - place) / self.sharpness
        return above.sigmoid() * below.sigmoid()


def _terms(log_p: Tensor, log_q: Tensor) -> Tensor:
    """``p log(p / q) - p + q`` of log-probabilities, at least zero; log p may be -inf."""
    p, q = log_p.exp(), log_q.exp()
    return p * (log_p.clamp(min=-1e4) - log_q.clamp(min=-1e4)) - p + q
