"""DeiT-LT: a vision transformer learns long-tailed data with a head for the labels and one for a teacher's decisions.

Shape letters: B examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Paper, Signal, StepInfo, TrainDatasetMixin, as_float32

from .class_counts import check_counts, class_balanced_weights, count_classes
from .examples import class_labels, logits_of, num_classes

HEADS = ("cls_classifier", "distillation_classifier")


class DeiTLT(TrainDatasetMixin, BatchLoss):
    """``(1 - alpha) CE(class head, label) + alpha w CE(distillation head, the teacher's most likely class)``.

    For students with two heads, as `DeiTForImageClassificationWithTeacher`, whose prediction is the mean of both. The
    teacher, a convolutional network trained for the long tail, sees the same augmented image as the student; what it
    makes of images that are far from its own is what the second head learns. That head becomes the expert for rare
    classes, the first one for frequent ones. Logged as "label" and "distillation".

    Deferred re-weighting: w is 1 until `reweight_from` of the run is over, then the class-balanced weight of the
    teacher's class (`class_balanced_weights`), divided by its mean over the training examples.

    The student has no loss of its own, so do not name `task` beside this one. Labels may be soft (mixup, cutmix).

    Args:
        alpha: weight of the distillation head.
        reweight_from: share of the run's optimizer steps before weights count; 1 for never.
        beta: of the class-balanced weights.
        class_counts: training examples of each class; counted in the training data where not given.
        heads: paths of the modules that make the logits for labels and for the teacher.

    Raises:
        ValueError: an option out of its range.

    Paper: Rangwani et al. (2024), DeiT-LT, arXiv:2404.02900; DeiT: Touvron et al. (2021), arXiv:2012.12877. Deviations:
        the authors divide by the weights of a batch's own targets, which depend on how a step is cut, we by their mean
        over the training data; they leave mixup out once weights count, which is the collator's business here.
    """

    paper = Paper("Rangwani et al.", 2024, name="DeiT-LT", arxiv="2404.02900")
    items = "rows"
    needs_teacher_rows = True
    counts: Tensor
    reweighting: Tensor

    def __init__(
        self,
        *,
        alpha: float = 0.5,
        reweight_from: float = 11 / 12,
        beta: float = 0.9999,
        class_counts: Sequence[int] | None = None,
        heads: Sequence[str] = HEADS,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1 or not 0 <= reweight_from <= 1 or not 0 <= beta < 1:
            raise ValueError(
                f"alpha is {alpha}, reweight_from {reweight_from}, beta {beta}; expected shares from 0 to 1."
            )
        if isinstance(heads, str) or len(heads) != 2:
            raise ValueError(f"heads is {heads!r}; expected two paths, for labels and for the teacher.")
        self.alpha, self.reweight_from, self.beta = alpha, reweight_from, beta
        self.class_counts, self.heads = class_counts, tuple(heads)
        self.student_taps = tuple(f"module:{path}" for path in heads)

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Check the heads and make room for the counts.

        Raises:
            ValueError: the student has no two heads, or counts are those of other classes.
        """
        classes = num_classes(student, "deit_lt")
        modules = dict(student.named_modules())
        if missing := [path for path in self.heads if path not in modules]:
            raise ValueError(
                f"deit_lt is for a student with a second head, but {type(student).__name__} has no {missing[0]!r}. Use "
                "DeiTForImageClassificationWithTeacher, or name both heads of yours: heads=[labels', teacher's]."
            )
        counts = torch.zeros(classes, dtype=torch.int64)
        if self.class_counts is not None:
            counts = check_counts(self.class_counts, classes, "deit_lt")
        self.register_buffer("counts", counts)
        self.register_buffer("reweighting", torch.tensor(self.reweight_from == 0, dtype=torch.int64))

    def on_train_dataset(self, dataset: Any) -> None:
        """Count the classes.

        Raises:
            ValueError: they cannot be counted.
        """
        if self.class_counts is None and self.reweight_from < 1:
            self.counts.copy_(count_classes(dataset, len(self.counts), "deit_lt"))

    def on_step_end(self, info: StepInfo) -> None:
        """Let weights count from their time on."""
        self.reweighting.fill_(int(self.reweight_from < 1 and info.step >= self.reweight_from * info.max_steps))

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> dict[str, Tensor]:
        """The sums over the examples that count.

        Raises:
            ValueError: there are no labels.
        """
        labels = class_labels(batch, "deit_lt")
        class_logits, distillation_logits = (as_float32(student.features[name]) for name in self.student_taps)
        decisions = logits_of(teacher, "deit_lt", whose="teacher").argmax(-1)
        weights = torch.where(self.reweighting > 0, normalised_weights(self.counts, beta=self.beta), 1)
        by_label = nn.functional.cross_entropy(class_logits, labels, reduction="none")
        by_teacher = nn.functional.cross_entropy(distillation_logits, decisions, reduction="none") * weights[decisions]
        parts = {"label": (1 - self.alpha) * by_label, "distillation": self.alpha * by_teacher}
        return {name: torch.where(batch.row_mask, values, 0).sum() for name, values in parts.items()}


def normalised_weights(counts: Tensor, *, beta: float) -> Tensor:
    """`class_balanced_weights` whose mean over the training examples is 1, ``[C]`` in float32; 1 without counts."""
    weights = class_balanced_weights(counts, beta=beta)
    mean = (weights * counts).sum() / counts.sum().clamp(min=1)
    return torch.where(mean > 0, weights / mean, 1).float()
