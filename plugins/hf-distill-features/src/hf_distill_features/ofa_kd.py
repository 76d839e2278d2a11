"""OFA-KD: the teacher's predictions for every stage of a student, whatever the architectures.

Shape letters: B examples, n of them that count, C classes, H width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill import Batch, BatchLoss, Float32Linear, Paper, Signal, as_float32, hidden_width, num_blocks

from .pooled import pool


class OFAKD(BatchLoss):
    """Cross-entropy with the teacher at the student's head and at branches from its stages, the target class boosted.

    A branch maps a stage's pooled features to logits, the space that all architectures share; only the teacher's
    predictions are read. Each of them and the final head learn
    ``-sum_c [(p_c + 1_{c=y})^e - 1_{c=y}] log q_c``: with e = 1 the soft cross-entropy, with e > 1 more weight on the
    target class where the teacher is sure of it. Branches are trained along and are not part of the exported student.
    Their sum and the head's are logged as "branches" and "final". The labels' own cross-entropy is not part of it: name
    `task` beside it.

    For classifiers with one prediction an example (text or images). Soft labels count as their largest class.

    Paper: Hao et al. 2023, "One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
    arXiv:2310.19444, at temperature 1. Deviation: a branch is a mean over positions, a normalisation, and
    two linear maps with GELU between them, where the official code has separable convolutions or transformer blocks.

    Args:
        exponent: e, one for all, or a list with one for each branch and the final head's last.
        exits: how many branches, evenly over the student's depth, or a list of blocks.
        taps: outputs of the student to branch from instead (``["module:resnet.encoder.stages.0", ...]``);
            ``[B, H]``, ``[B, S, H]`` and ``[B, C, h, w]`` are understood.
        widths: H of each of `taps`.
        branch_weight: of the branches, relative to the final head.
        pooling: "mean", "first" (the class token of encoders) or "last" (of causal models).

    Raises:
        ValueError: options that do not go together.
    """

    paper = Paper(
        "Hao et al.",
        2023,
        title="One-for-All: Bridge the Gap Between Heterogeneous Architectures in Knowledge Distillation",
        name="OFA-KD",
        arxiv="2310.19444",
    )
    items = "rows"
    needs_student_rows = True
    needs_teacher_rows = True

    def __init__(
        self,
        *,
        exponent: float | Sequence[float] = 1.0,
        exits: int | Sequence[int] = 4,
        taps: Sequence[str] | None = None,
        widths: Sequence[int] | None = None,
        branch_weight: float = 1.0,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        if (taps is None) != (widths is None) or len(taps or ()) != len(widths or ()):
            raise ValueError(f"taps is {taps!r} and widths {widths!r}; expected a width for each tap.")
        if taps is not None and exits != 4:
            raise ValueError(f"taps says where the branches are, and so does exits ({exits!r}); give one of them.")
        if pooling not in ("mean", "first", "last"):
            raise ValueError(f'pooling is {pooling!r}; expected "mean", "first" or "last".')
        self.exponent, self.exits, self.taps, self.widths = exponent, exits, taps, widths
        self.branch_weight = branch_weight
        self.pooling = pooling

    def setup(self, student: nn.Module, teacher: nn.Module | None, tokenizer: Any) -> None:
        """Make the branches.

        Raises:
            ValueError: the student is no classifier, the teacher has other classes, or exits or exponents do not fit.
        """
        num_classes = _num_classes(student, "student")
        if teacher is not None and _num_classes(teacher, "teacher") != num_classes:
            raise ValueError(
                f"ofa_kd compares predictions: the student has {num_classes} classes and the teacher "
                f"{_num_classes(teacher, 'teacher')}; expected the same ones."
            )
        if self.taps is not None:
            self.student_taps, widths = tuple(self.taps), list(self.widths or ())
        else:
            depth = num_blocks(student)
            exits = exit_blocks(depth, self.exits) if isinstance(self.exits, int) else list(self.exits)
            if not exits or not all(-depth <= block < depth for block in exits):
                raise ValueError(f"exits is {self.exits}; the student has the blocks 0 to {depth - 1}.")
            self.student_taps = tuple(f"hidden.{block % depth + 1}" for block in exits)
            widths = [hidden_width(student)] * len(exits)
        given = [self.exponent] if isinstance(self.exponent, (int, float)) else list(self.exponent)
        self.exponents = given * (len(widths) + 1) if len(given) == 1 else given
        if len(self.exponents) != len(widths) + 1:
            raise ValueError(
                f"exponent has {len(given)} entries; expected one, or {len(widths) + 1}: one for each of the "
                f"{len(widths)} branches ({', '.join(self.student_taps)}) and the final head's."
            )
        self.branches = nn.ModuleList(_branch(width, num_classes) for width in widths)

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> dict[str, Tensor]:
        """The sums over the examples with a label.

        Raises:
            ValueError: there are no labels, or more than one prediction an example.
        """
        if batch.row_labels is None:
            raise ValueError("ofa_kd boosts the target class, but the batch has no labels. Add them.")
        present = batch.row_mask
        logits, teacher_logits = _example_logits(student), _example_logits(teacher)
        labels = batch.row_labels.argmax(-1) if batch.row_labels.dim() == 2 else batch.row_labels
        labels = torch.where(present, labels, 0)
        with torch.autocast(present.device.type, enabled=False):
            *targets, final_target = (ofa_targets(teacher_logits, labels, exponent) for exponent in self.exponents)
            final = soft_cross_entropy(logits, final_target)
            branches = torch.zeros_like(final)
            for name, branch, target in zip(self.student_taps, self.branches, targets, strict=True):
                pooled = pool(student.features[name], batch.token_mask, self.pooling)
                branches = branches + soft_cross_entropy(branch(pooled), target)
        parts = {"final": final, "branches": self.branch_weight * branches}
        return {name: torch.where(present, values, 0).sum() for name, values in parts.items()}


def ofa_targets(teacher_logits: Tensor, labels: Tensor, exponent: float) -> Tensor:
    """``(p + onehot)^e - onehot``, which need not sum to one, ``[n, C]`` in float32."""
    p = as_float32(teacher_logits).softmax(-1)
    target = nn.functional.one_hot(labels, p.shape[-1])
    return (p + target) ** exponent - target


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """``-sum_c target_c log softmax(logits)_c``, ``[n]``."""
    return -(target * logits.to(target.dtype).log_softmax(-1)).sum(-1)


def exit_blocks(depth: int, number: int) -> list[int]:
    """The last block of each of `number` equal shares of the depth, fewer where there are fewer blocks.

    Raises:
        ValueError: no exits.
    """
    if number < 1:
        raise ValueError(f"exits is {number}; expected at least 1, or a list of blocks.")
    return sorted({math.ceil(depth * (index + 1) / number) - 1 for index in range(number)})


def _branch(width: int, num_classes: int) -> nn.Module:
    normalize = nn.LayerNorm(width, elementwise_affine=False)  # stages differ in scale
    return nn.Sequential(normalize, Float32Linear(width, width), nn.GELU(), Float32Linear(width, num_classes))


def _num_classes(model: nn.Module, whose: str) -> int:
    config: Any = getattr(model, "config", None)
    if getattr(model, "get_output_embeddings", lambda: None)() is not None or not hasattr(config, "num_labels"):
        raise ValueError(
            f"ofa_kd is for classifiers with one prediction an example, but the {whose} is a {type(model).__name__}."
        )
    return int(config.num_labels)


def _example_logits(signal: Signal) -> Tensor:
    logits = getattr(signal.rows, "logits", None)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        found = type(signal.rows).__name__ if logits is None else f"logits of shape {tuple(logits.shape)}"
        raise ValueError(f"ofa_kd takes logits [B, C], one row an example and all classes, but a model gave {found}.")
    return logits
