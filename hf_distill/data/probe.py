"""Measures student and teacher on a probe set, by domain, on all processes together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from .selectors import read_columns

Forward = Callable[[str, Any], tuple[Tensor, Tensor]]


class DomainProbe:
    """Mean cross-entropy of a model on each domain of a probe set; implements `hf_distill.data.selectors.Probe`.

    The mean is weighted by tokens: the domain's summed cross-entropy over its predicted tokens, in float64. Every
    process takes an equal share of every batch and runs equally many forward passes, as sharded models need, with
    duplicates that count for nothing where the examples do not suffice. The teacher is measured once: it is frozen.

    Args:
        dataset: probe examples, by index, ready for `collate`.
        domains: the domain of each example.
        forward: takes "student" or "teacher" and a collated batch of B examples (on the CPU); returns each example's
            cross-entropy summed over its predicted tokens, in nats, and the number of these tokens, both ``[B]``.
            Collective. It is the caller's to switch off dropout and gradients, and to restore the training mode.
        collate: makes a batch from a list of examples.
        batch_size: examples of a batch, for each process.
        accelerator: where this process stands, and how to sum over all.
        num_bytes: bytes of text behind each example's predicted tokens (see `count_bytes`), for `bits_per_byte`.
        fingerprint: names what the teacher's figures depend on, the teacher and the probe data; figures from a
            checkpoint are used again only where it is the same.

    Raises:
        ValueError: the probe set is empty.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        domains: Sequence[Any],
        forward: Forward,
        collate: Callable[[list[Any]], Any],
        batch_size: int,
        accelerator: Accelerator,
        num_bytes: Sequence[int] | None = None,
        fingerprint: str = "",
    ) -> None:
        if not len(domains):
            raise ValueError("The probe set has no examples.")
        names = [str(domain) for domain in domains]
        self.domains: tuple[str, ...] = tuple(sorted(set(names)))
        self._domain_ids = torch.tensor([self.domains.index(name) for name in names])
        self._dataset = dataset
        self._forward = forward
        self._collate = collate
        # A set that is smaller than a batch is not filled up with duplicates.
        self._batch_size = min(batch_size, -(-len(names) // accelerator.num_processes))
        self._accelerator = accelerator
        self._num_bytes = num_bytes
        self._fingerprint = fingerprint
        self._teacher: Tensor | None = None

    def cross_entropy(self, model: str) -> dict[str, float]:
        """Mean cross-entropy in nats per predicted token, by domain.

        Raises:
            ValueError: a domain has no predicted token.
        """
        sums, counts = self._measure(model)
        return dict(zip(self.domains, (sums / counts).tolist(), strict=True))

    def bits_per_byte(self, model: str) -> dict[str, float]:
        """Cross-entropy in bits per byte of text, by domain; comparable between models with different tokenizers.

        Raises:
            ValueError: a domain has no predicted token, or the bytes are not known.
        """
        if self._num_bytes is None:
            raise ValueError("Bits per byte need the number of bytes of each probe example; the probe was given none.")
        sums, _ = self._measure(model)
        num_bytes = torch.zeros_like(sums).index_add_(0, self._domain_ids, torch.tensor(self._num_bytes).double())
        return dict(zip(self.domains, (sums / num_bytes / math.log(2)).tolist(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """The teacher's figures, JSON-serialisable."""
        figures = None if self._teacher is None else self._teacher.tolist()
        return {"fingerprint": self._fingerprint, "domains": list(self.domains), "teacher": figures}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the teacher's figures if they are of the same teacher and probe set; collective."""
        same = (state["fingerprint"], state["domains"]) == (self._fingerprint, list(self.domains))
        # Processes that disagreed would wait for one another in the teacher's forward passes for ever.
        everywhere = self._sum_over_processes(torch.tensor([float(same)])).item() == self._accelerator.num_processes
        if everywhere and state["teacher"] is not None:
            self._teacher = torch.tensor(state["teacher"], dtype=torch.float64)

    def _measure(self, model: str) -> Tensor:
        """Summed cross-entropy and predicted tokens, ``[2, domains]`` float64."""
        if model == "teacher" and self._teacher is not None:
            return self._teacher
        totals = torch.zeros(2, len(self.domains), dtype=torch.float64)
        for batch in self._shares():
            real = batch >= 0
            # -1 stands for a duplicate: the last example once more.
            rows = [self._dataset[index % len(self._domain_ids)] for index in batch.tolist()]
            sums, counts = self._forward(model, self._collate(rows))
            figures = torch.stack([sums.cpu().double(), counts.cpu().double()])
            totals.index_add_(1, self._domain_ids[batch[real]], figures[:, real])
        totals = self._sum_over_processes(totals)
        if empty := [name for name, count in zip(self.domains, totals[1].tolist(), strict=True) if count == 0]:
            raise ValueError(
                f"The probe set has no token to predict in {', '.join(empty)}. Check its labels (-100 is left out), "
                "and that examples are not cut short before the first label."
            )
        if model == "teacher":
            self._teacher = totals
        return totals

    def _shares(self) -> Tensor:
        """This process's examples, ``[batches, batch_size]``; -1 where there are no more."""
        num_examples, num_processes = len(self._domain_ids), self._accelerator.num_processes
        num_batches = -(-num_examples // (num_processes * self._batch_size))
        indices = torch.full((num_batches * num_processes * self._batch_size,), -1)
        indices[:num_examples] = torch.arange(num_examples)
        return indices.view(num_batches, num_processes, self._batch_size)[:, self._accelerator.process_index]

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        if self._accelerator.num_processes == 1:
            return values
        summed: Tensor = self._accelerator.reduce(values.to(self._accelerator.device), reduction="sum")
        return summed.cpu()


def count_bytes(dataset: Any, *, text_column: str | None = None, tokenizer: Any = None) -> list[int]:
    """Bytes of UTF-8 text behind the predicted tokens of each example of a probe set.

    Args:
        dataset: probe examples, by index.
        text_column: column that holds exactly the text which the labels cover; or
        tokenizer: decodes the labels (the input ids where there are none), without special tokens.

    Raises:
        ValueError: there is no such column.
    """
    if text_column is not None:
        texts = read_columns(dataset, [text_column], what="probe set")[text_column]
        return [len(text.encode()) for text in texts]
    sizes = []
    for index in range(len(dataset)):
        row = dataset[index]
        tokens = [int(token) for token in row.get("labels", row["input_ids"]) if token >= 0]
        sizes.append(len(tokenizer.decode(tokens, skip_special_tokens=True).encode()))
    return sizes
