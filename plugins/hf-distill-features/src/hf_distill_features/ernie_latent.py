"""ERNIE-Tiny's latent loss: attention maps and projected hidden states, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Paper, Plugins, Signal


class ErnieLatent(BatchLoss):
    """Mean squared errors of attention scores and of hidden states, the latter after a learnt linear map.

    The sum of the core's `attention_transfer` ("scores_mse") and `hidden_mse`, which are logged as its parts. It is the
    loss of all four stages of ERNIE-Tiny: general distillation, general-enhanced, task-adaptive, and task-specific,
    where the soft and the hard labels come on top (`forward_kl` and `task`). What changes between stages is one of
    teacher, data and loss; student and maps go on.

    After the paper's description: Su et al. 2021, "ERNIE-Tiny: A Progressive Distillation Framework for Pretrained
    Transformer Compression", arXiv:2106.02241. Attention before the softmax, as in TinyBERT (Jiao et al. 2020,
    arXiv:1909.10351), is our reading. Deviation: means over layers and widths, not sums.

    Args:
        layers: pairs of blocks; "last_of_block" is the paper's uniform map, every (T / S)-th block of the teacher.
        projection: "auto" (a linear map where the widths differ), "linear" or "none".
        embeddings: compare the input of the first block as well.
        stack: "encoder" or "decoder" of an encoder-decoder; the default is its decoder.
    """

    paper = Paper(
        "Su et al.",
        2021,
        title="ERNIE-Tiny: A Progressive Distillation Framework for Pretrained Transformer Compression",
        name="ERNIE-Tiny",
        arxiv="2106.02241",
    )

    def __init__(
        self,
        *,
        layers: str | Sequence[Sequence[int]] = "last_of_block",
        projection: str = "auto",
        embeddings: bool = False,
        stack: str | None = None,
    ) -> None:
        super().__init__()
        create = Plugins().losses.create
        shared = {"layers": layers, "stack": stack}
        self.attention = create("attention_transfer", {"kind": "scores_mse", **shared})
        self.hidden = create("hidden_mse", {"projection": projection, "embeddings": embeddings, **shared})

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the layers and make the projections.

        Raises:
            ValueError: no teacher model, layers that do not exist, or unequal widths without projection.
        """
        for part in (self.attention, self.hidden):
            part.setup(student, teacher, tokenizer)
            self.student_taps += part.student_taps
            self.teacher_taps += part.teacher_taps

    def count(self, batch: Batch) -> Tensor:
        """Tokens of the compared stack."""
        count: Tensor = self.hidden.count(batch)
        return count

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> dict[str, Tensor]:
        """Both sums over the tokens."""
        parts = {"attention": self.attention, "hidden": self.hidden}
        return {name: part(student, teacher, batch) for name, part in parts.items()}
