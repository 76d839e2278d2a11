"""Broken losses, each with one defect, many of them published: what the conformance kit must catch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import kl_div

from hf_distill import BatchLoss, RowLoss
from hf_distill.batch.signals import IGNORE_INDEX


def kl(student_logits, teacher_logits):
    """KL(p || q), ``[n]``; the healthy loss that the mutants below come from."""
    p, q = (logits.log_softmax(-1) for logits in (teacher_logits.float(), student_logits.float()))
    return kl_div(q, p, log_target=True, reduction="none").sum(-1)


def between(student_logits, first_logits, second_logits):
    """Healthy: KL from the geometric mean of two teachers."""
    return kl(student_logits, (first_logits.float() + second_logits.float()) / 2)


class Weighted(RowLoss):
    """Healthy: KL with a weight from the data."""

    columns = ("weight",)

    def forward(self, student_logits, teacher_logits, weight):
        """Weighted by row."""
        return kl(student_logits, teacher_logits) * weight


def reversed_kl(student_logits, teacher_logits):
    """The other divergence, under the name of the first."""
    return kl(teacher_logits, student_logits)


def squared_temperature_on_the_value(student_logits, teacher_logits, *, temperature: float = 2.0):
    """T^2 on what is logged, not on what is differentiated."""
    values = kl(student_logits, teacher_logits)
    return values + (values * (temperature**2 - 1)).detach()


def cross_entropy_of_teacher(student_logits, teacher_logits):
    """Not zero where student and teacher agree, though its gradient is."""
    return -(teacher_logits.softmax(-1) * student_logits.log_softmax(-1)).sum(-1)


def label_mean(student_logits, teacher_logits, labels):
    """Divides by how many rows have a label: 0 / 0 where none has."""
    counts = (labels != IGNORE_INDEX).float()
    return kl(student_logits, teacher_logits) * counts / counts.mean()


def standardised(student_logits, teacher_logits):
    """Divides by a deviation over rows, which one row alone does not have."""
    values = kl(student_logits, teacher_logits)
    return values / values.detach().std(correction=0)


def half(student_logits, teacher_logits):
    """Squares logits in the type that they came in, and casts too late: float16 ends at 65,504."""
    return (student_logits - teacher_logits).square().mean(-1).float()


def drops_first_class(student_logits, teacher_logits):
    """Column 0 taken for padding, as some tokenizers have it there."""
    return kl(student_logits[:, 1:], teacher_logits[:, 1:])


def mean_of_means(student_logits, teacher_logits):
    """The mean over whatever rows there are, given to each of them."""
    values = kl(student_logits, teacher_logits)
    return values.mean().expand(len(values)) * len(values) ** 0.5


def over_kept(student_logits, teacher_logits):
    """Fine on whole logits; see `_over_kept_on_sparse`."""
    return kl(student_logits, teacher_logits)


def _over_kept_on_sparse(student_logits, teacher):
    """Normalises the student over the columns that a cache kept, as in DistillKit's and verl's sparse KL."""
    return kl(student_logits.gather(-1, teacher.ids), teacher.log_probs)


over_kept.on_sparse = _over_kept_on_sparse


def asks_the_device(student_logits, teacher_logits):
    """Looks at a number before it goes on."""
    values = kl(student_logits, teacher_logits)
    return values if values.max().item() > 0 else values * 0


def picks_rows(student_logits, teacher_logits):
    """A boolean mask as an index."""
    wrong = student_logits.argmax(-1) != teacher_logits.argmax(-1)
    values = kl(student_logits, teacher_logits)
    return torch.zeros_like(values).masked_scatter(wrong, values[wrong])


def swallows(student_logits, teacher_logits):
    """Goes on where rows do not fit."""
    try:
        return kl(student_logits, teacher_logits)
    except RuntimeError:
        return student_logits.sum(-1) * 0


class UnregisteredBuffer(RowLoss):
    """A weight that moves with the clock and is in no checkpoint."""

    def __init__(self):
        super().__init__()
        self.gain = torch.ones(())

    def on_step_end(self, info):
        self.gain = self.gain + 1

    def forward(self, student_logits, teacher_logits):
        return kl(student_logits, teacher_logits) * self.gain.to(student_logits.device)


class MovesInForward(RowLoss):
    """A weight that moves with every chunk, not with the clock."""

    def __init__(self):
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, student_logits, teacher_logits):
        values = kl(student_logits, teacher_logits) * self.gain
        self.gain = self.gain * 1.5
        return values


class Disconnected(RowLoss):
    """A parameter that no gradient reaches, because the value is detached from it."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, student_logits, teacher_logits):
        return kl(student_logits, teacher_logits) * self.gain.detach()


class Features(BatchLoss):
    """Squared distance of the last hidden states, summed over tokens; the healthy loss of the mutants below."""

    student_taps = teacher_taps = ("hidden.-1",)

    def distances(self, student, teacher):
        """One for each position, ``[B, S]``."""
        ours, theirs = (signal.features["hidden.-1"].float() for signal in (student, teacher))
        return (ours - theirs).square().mean(-1)

    def forward(self, student, teacher, batch):
        """Tokens alone count."""
        return torch.where(batch.token_mask, self.distances(student, teacher), 0).sum()


class OtherPower(Features):
    """The absolute difference under the name of the squared one."""

    def distances(self, student, teacher):
        return (student.features["hidden.-1"] - teacher.features["hidden.-1"]).abs().mean(-1)


class StoppedGradient(Features):
    """Divides by the student's own size and takes that for a constant."""

    def distances(self, student, teacher):
        return super().distances(student, teacher) / student.features["hidden.-1"].detach().square().mean(-1)


class PullsToZero(Features):
    """The student's size, whatever the teacher says."""

    def distances(self, student, teacher):
        return super().distances(student, teacher) + student.features["hidden.-1"].square().mean(-1)


class EmptyMean(Features):
    """A mean over tokens, times their number: 0 / 0 where there are none."""

    def forward(self, student, teacher, batch):
        return super().forward(student, teacher, batch) / batch.token_mask.sum() * batch.token_mask.sum()


class ExampleDeviation(Features):
    """Divides by a deviation over examples."""

    def forward(self, student, teacher, batch):
        return (
            super().forward(student, teacher, batch) / student.features["hidden.-1"][:, 0].std(0, correction=0).mean()
        )


class CountsPadding(Features):
    """No mask at all."""

    def forward(self, student, teacher, batch):
        return self.distances(student, teacher).sum()


class UnshiftedMask(BatchLoss):
    """Compares predictions wherever there is a token, also at the last one, which predicts nothing (MiniLLM-style)."""

    items = "rows"
    needs_student_rows = needs_teacher_rows = True

    def forward(self, student, teacher, batch):
        ours, theirs = (signal.rows.head.project(signal.rows.states) for signal in (student, teacher))
        return torch.where(batch.token_mask, kl(ours.flatten(0, 1), theirs.flatten(0, 1)).view(ours.shape[:2]), 0).sum()


class MeanOfMeans(Features):
    """The mean over the micro-batch's tokens, given to each example of it: a long one counts for less."""

    items = "examples"

    def forward(self, student, teacher, batch):
        mean = super().forward(student, teacher, batch) / batch.token_mask.sum().clamp(min=1)
        return mean * batch.count("examples")


class HalfFeatures(Features):
    """Squares features in the type that they came in, and casts too late."""

    def distances(self, student, teacher):
        return (student.features["hidden.-1"] - teacher.features["hidden.-1"]).square().mean(-1).float()


class PicksTokens(Features):
    """A boolean mask as an index."""

    def forward(self, student, teacher, batch):
        return self.distances(student, teacher)[batch.token_mask].sum()


class Forgiving(Features):
    """Zero where a feature is missing, so that a misspelt name goes unnoticed."""

    def forward(self, student, teacher, batch):
        if "hidden.-1" not in teacher.features:
            return torch.zeros(())
        return super().forward(student, teacher, batch)


class GrowsTheStudent(Features):
    """Hangs a projection of its own into the student, whose files then have weights that no model knows."""

    def setup(self, student, teacher, tokenizer):
        student.projector = nn.Linear(4, 4)
