"""MDCS: experts that each favour other classes, and learn from what they see more clearly.

Shape letters: B examples, C classes, K experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, NestedBatchMixin, Paper, Signal, StepInfo, TrainDatasetMixin, as_float32

from .class_counts import check_counts, count_classes
from .examples import class_labels, num_classes
from .experts import ExpertHead


class MDCS(NestedBatchMixin, TrainDatasetMixin, BatchLoss):
    """Diversity and consistency of the experts of a student made by the transform `experts`; there is no teacher.

    Expert k learns labels with logits ``e_k = z_k + lambda_k log n_c``, n_c the number of training examples of class c:
    below 0 it favours frequent classes, at 1 it is balanced, above it favours rare ones, since the adjustment is not
    there when the student predicts (by the mean of z_k). Besides, an expert's prediction for a weak view of an example
    teaches the same expert its strong view, where it was right. Per example, summed over experts::

        (CE(e_weak, label) + CE(e_strong, label)) / 2 + w 1[e_weak is right] KL(p_weak || p_strong)

    w grows linearly to `consistency`. Logged as "diversity" and "consistency". Batches are those of `TwoViews`: the
    parts "weak" and "strong", and labels.

    Args:
        strengths: lambda_k, one for each expert.
        consistency: w after the warm-up.
        warmup: its share of the run's optimizer steps.
        class_counts: training examples of each class; counted in the training data where not given.

    Raises:
        ValueError: an option out of its range.

    Paper: Zhao et al. (2023), MDCS: More Diverse Experts with Consistency Self-distillation for Long-tailed
        Recognition, arXiv:2308.09922; strengths and weights are those of the authors' code for CIFAR-100-LT, with 20 of
        400 epochs of warm-up. Deviation: the authors divide the consistency by the number of examples that an expert is
        right about in a batch, which depends on how a step is cut, we by that of all examples.
    """

    paper = Paper(
        "Zhao et al.",
        2023,
        title="MDCS: More Diverse Experts with Consistency Self-distillation for Long-tailed Recognition",
        name="MDCS",
        arxiv="2308.09922",
    )
    items = "examples"
    needs_teacher = False
    student_parts = ("weak", "strong")
    counts: Tensor
    ramp: Tensor

    def __init__(
        self,
        *,
        strengths: Sequence[float] = (-0.5, 1.0, 2.5),
        consistency: float = 0.6,
        warmup: float = 0.05,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if not strengths or consistency < 0 or not 0 <= warmup <= 1:
            raise ValueError(
                f"strengths are {strengths}, consistency {consistency}, warmup {warmup}; expected one strength an "
                "expert, a weight of at least 0, a share from 0 to 1."
            )
        self.strengths, self.consistency, self.warmup = tuple(strengths), consistency, warmup
        self.class_counts = class_counts

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Find the experts.

        Raises:
            ValueError: the student has none, or not as many as there are strengths, or counts are of other classes.
        """
        classes = num_classes(student, "mdcs")
        heads = [name for name, module in student.named_modules() if isinstance(module, ExpertHead)]
        found = len(student.get_submodule(heads[0]).experts) if heads else 0  # type: ignore[arg-type]
        if found != len(self.strengths):
            raise ValueError(
                f"mdcs has strengths for {len(self.strengths)} experts, but the student has {found}. Make it with "
                f"hf_distill.transform(student, 'experts', num_experts={len(self.strengths)}, plugins=...)."
            )
        self.student_taps = tuple(f"module:{heads[0]}.experts.{index}" for index in range(found))
        counts = torch.zeros(classes, dtype=torch.int64)
        if self.class_counts is not None:
            counts = check_counts(self.class_counts, classes, "mdcs")
        self.register_buffer("counts", counts)
        # How far the warm-up is, 0 to 1, as bits: engines in half precision would round a float.
        self.register_buffer("ramp", torch.tensor([float(self.warmup == 0)]).view(torch.int32))

    def count(self, batch: Batch) -> Tensor:
        """Examples with a label."""
        return _present(batch).sum()

    def on_train_dataset(self, dataset: Any) -> None:
        """Count the classes.

        Raises:
            ValueError: they cannot be counted.
        """
        if self.class_counts is None:
            self.counts.copy_(count_classes(dataset, len(self.counts), "mdcs"))

    def on_step_end(self, info: StepInfo) -> None:
        """Move the warm-up."""
        length = self.warmup * info.max_steps
        self.ramp.copy_(torch.tensor([min(info.step / length, 1.0) if length > 0 else 1.0]).view(torch.int32))

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> dict[str, Tensor]:
        """The sums over the examples.

        Raises:
            ValueError: there are no labels.
        """
        labels = class_labels(batch, "mdcs")
        prior = self.counts.clamp(min=1).log()
        weak, strong = (
            torch.stack(
                [
                    as_float32(student.parts[part].features[tap]) + strength * prior
                    for tap, strength in zip(self.student_taps, self.strengths, strict=True)
                ]
            )
            for part in self.student_parts
        )
        diversity, consistency = mdcs(weak, strong, labels)
        weight = self.consistency * self.ramp.view(torch.float32)
        parts = {"diversity": diversity, "consistency": weight * consistency}
        return {name: torch.where(_present(batch), values, 0).sum() for name, values in parts.items()}

    def predictions(self, student: Signal, batch: Batch) -> Tensor:
        """The mean of the experts' logits for the weak view, without adjustment, ``[B, C]``."""
        logits: Tensor = student.parts["weak"].outputs["logits"]
        return logits


def _present(batch: Batch) -> Tensor:
    """Which examples count, boolean ``[B]``: those with a label that do not only fill up the batch."""
    return batch.row_mask if batch.labels is None else batch.row_mask & (batch.labels >= 0)


def mdcs(weak: Tensor, strong: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropies and consistency, summed over experts, both ``[B]``.

    Args:
        weak: adjusted logits of the weak view, ``[K, B, C]``.
        strong: those of the strong one.
        labels: ``[B]``.
    """
    log_weak, log_strong = weak.log_softmax(-1), strong.log_softmax(-1)
    label_index = labels.expand(len(weak), -1)[..., None]
    diversity = -(log_weak + log_strong).gather(-1, label_index).squeeze(-1) / 2
    target = log_weak.detach()
    divergence = (target.exp() * (target - log_strong)).sum(-1)
    is_right = target.argmax(-1) == labels
    return diversity.sum(0), torch.where(is_right, divergence, 0).sum(0)
