"""Approximate likelihood matching: the student finds a piece of text as likely as the teacher, whatever its tokens.

Shape letters: B examples, R and Q predictions of student and teacher in chunks, K chunks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_distill import Batch, Paper, Rows, Signal, differentiable_log_probs

from .bridging import BridgingLoss
from .chunks import at, chunk_sums, next_log_probs, rows_at, whole_chunks

_EPSILON = 1e-6  # keeps likelihoods below one, where the logarithm of what is left would be infinite


class ALM(BridgingLoss):
    """Binary cross-entropy between the likelihoods that both models give to a chunk of text.

    A chunk is the shortest run of bytes that ends where a token of both ends. With p and q the products of the
    probabilities of its tokens, and the temperature tau,
    ``- p^(1/tau) log q^(1/tau) - (1 - p^(1/tau)) log (1 - q^(1/tau))``. The mean is over the chunks of the whole step.
    It is smallest where q is p, but not zero there.

    Of the teacher it needs the log-probability of the token that really comes next, and nothing else: one number a
    token, which every cache holds.

    The gradient is about tau times smaller than that of the cross-entropy, so that a weight of tau beside the task's
    weight of 1 makes both about as strong.

    A chunk counts where both models predict all of its tokens: not the first token of a text without a token for its
    beginning, nothing that the labels leave out, nothing beyond `max_length`, no characters that were cut.

    Cost: the student's head is projected twice, see `hf_distill.differentiable_log_probs`.

    Args:
        temperature: tau; 100 makes the likelihoods of improbable chunks count, too.
        words: whether a chunk goes on to the end of a word. A token's probability then depends less on where the other
            tokenizer happens to cut.
        max_length: tokens that the teacher reads of a sequence; by default as many as its tokenizer allows.
        messages: the column with the conversations that the rows hold, as `apply_chat_template` takes them. The teacher
            then reads them in its own template, and what was said is compared, not what stands around it.

    Raises:
        ValueError: an option out of its range.

    Paper: Minixhofer et al. (2025), Cross-Tokenizer Distillation via Approximate Likelihood Matching, arXiv:2503.20083,
        equations 4 to 6, with f the binary cross-entropy at tau = 100. Deviations: chunks are the shortest ones
        ("alm_unconstrained") or words ("alm_space"); debiasing by a precomputed matrix or by the probability of a space
        is left out, since a cache does not hold it. Chunks with a token that nobody predicts do not count; the
        authors' code leaves the token out of the product.
    """

    paper = Paper(
        "Minixhofer et al.",
        2025,
        title="Cross-Tokenizer Distillation via Approximate Likelihood Matching",
        name="ALM",
        arxiv="2503.20083",
    )

    def __init__(
        self,
        *,
        temperature: float = 100.0,
        words: bool = False,
        max_length: int | None = None,
        messages: str | None = None,
    ) -> None:
        super().__init__(words=words, max_length=max_length, messages=messages)
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; expected a positive number.")
        self.temperature = temperature

    def count(self, batch: Batch) -> Tensor:
        """How many chunks there are."""
        return self._whole(batch).sum()

    def forward(self, student: Signal, teacher: Signal, batch: Batch) -> Tensor:
        """Sum over the chunks."""
        assert isinstance(student.rows, Rows)
        view, whole = self.view, self._whole(batch)
        rows, chunks = view.column(batch, "student_rows"), view.column(batch, "student_chunks")
        log_probs_of_tokens = next_log_probs(
            teacher, view.column(batch, "teacher_rows"), view.column(batch, "input_ids")
        )
        log_p = chunk_sums(log_probs_of_tokens, view.column(batch, "teacher_chunks"), whole.shape[1])

        def distance(log_probs: Tensor) -> Tensor:
            log_q = chunk_sums(log_probs.view(rows.shape), chunks, whole.shape[1])
            return torch.where(whole, chunk_distance(log_p.to(log_q), log_q, temperature=self.temperature), 0).sum()

        labels = at(rows + 1, batch.inputs["input_ids"])
        return differentiable_log_probs(distance, rows_at(student.rows, rows), labels.flatten())

    def _whole(self, batch: Batch) -> Tensor:
        """Which chunks count, ``[B, K]``."""
        rows, chunks = (self.view.column(batch, name) for name in ("student_rows", "student_chunks"))
        return whole_chunks(self.predicted(batch, rows), chunks)


def chunk_distance(log_p: Tensor, log_q: Tensor, *, temperature: float) -> Tensor:
    """Binary cross-entropy of likelihoods to the power of 1 / temperature, any shape, in float32 or wider.

    Args:
        log_p: logarithm of the teacher's likelihood.
        log_q: logarithm of the student's.
        temperature: tau.
    """
    log_p, log_q = (value.clamp(max=0) / temperature - _EPSILON for value in (log_p, log_q))
    return -(log_p.exp() * log_q - torch.expm1(log_p) * log_one_minus_exp(log_q))


def log_one_minus_exp(value: Tensor) -> Tensor:
    """log(1 - e^x) for x < 0, without losing digits at either end (Maechler 2012)."""
    near = value > -math.log(2)
    # Where the other branch is taken, a value in the middle, so that no gradient of infinity is multiplied by zero.
    small, large = value.where(near, -math.log(2)), value.where(~near, -math.log(2))
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-large.exp()))
