"""Training batches that the student writes itself, inside the loop.

    DistillationTrainer(..., generator={"name": "on_policy", "share": 0.5}, losses=["reverse_kl"])

A batch generator gets every micro-batch before anything is counted, so that losses are divided by what is really
trained on. It has no state: what it draws follows from the run's seed, the step and the micro-batch, and a resumed run
draws the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..batch.signals import IGNORE_INDEX

RowFunction = Callable[[Tensor, Tensor], Tensor]
"""Student and teacher logits, both ``[n, V]``, to ``[n]``: a row loss, or anything else that compares two rows."""


class LoopModels(Protocol):
    """The models of a run as a batch generator uses them; nothing here takes gradients. Collective under ZeRO-3."""

    tokenizer: PreTrainedTokenizerBase | None

    def share(self) -> float:
        """A number from 0 to 1 drawn for this micro-batch, the same on all processes."""

    def generate(self, input_ids: Tensor, attention_mask: Tensor, **options: Any) -> Tensor:
        """The student's continuation of left-padded prompts, as `transformers` generates: ``[B, prompt + new]``."""

    def compare(self, inputs: Mapping[str, Tensor], *functions: RowFunction) -> list[Tensor]:
        """Each function of student and (first) teacher at all positions, ``[B, S]``; zero where there is no token."""


class BatchGenerator(ABC):
    """Rewrites micro-batches before they are trained on.

    Attributes:
        writes_labels: whether labels become the student's own words, so that the task's loss on them makes no sense.
        needs_teacher: whether it compares with a teacher.
    """

    writes_labels: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False

    @abstractmethod
    def rewrite(self, inputs: dict[str, Any], models: LoopModels) -> dict[str, Any]:
        """The micro-batch to train on instead of `inputs`; called on every process, for every micro-batch.

        Under ZeRO-3 every process must use the models equally often: decide by `LoopModels.share`.
        """


class OnPolicy(BatchGenerator):
    """Lets the student continue the prompts itself, in a share of the micro-batches.

    The prompt of an example is what precedes its first label; where labels begin at once, its first `prompt_tokens`.
    Losses are then on the student's own text, which is where it will be used.

    Args:
        share: of micro-batches that the student writes (lambda in the paper); the others stay as they are.
        max_new_tokens: length of what it writes; None for the length of what it replaces.
        temperature: that it is sampled at.
        top_k: sample from this many likely tokens only; 0 from all.
        prompt_tokens: length of the prompt where labels begin at once.

    Raises:
        ValueError: an option out of its range.

    Paper: Agarwal et al. (2024), GKD, arXiv:2306.13649, Algorithm 1. Deviation: what is not on-policy is the data set,
        not the teacher's samples.
    """

    def __init__(
        self,
        *,
        share: float = 0.5,
        max_new_tokens: int | None = None,
        temperature: float = 1.0,
        top_k: int = 0,
        prompt_tokens: int = 16,
    ) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"share is {share}; expected a number from 0 to 1.")
        if temperature <= 0 or prompt_tokens < 1 or (max_new_tokens is not None and max_new_tokens < 1):
            raise ValueError(
                f"temperature {temperature}, prompt_tokens {prompt_tokens} and max_new_tokens {max_new_tokens}; "
                "expected positive numbers."
            )
        self.share = share
        self.max_new_tokens = max_new_tokens
        self.sampling = {"do_sample": True, "temperature": temperature, "top_k": top_k}
        self.prompt_tokens = prompt_tokens

    def rewrite(self, inputs: dict[str, Any], models: LoopModels) -> dict[str, Any]:
        """See `BatchGenerator.rewrite`."""
        if models.share() >= self.share:
            return inputs
        prompts, longest = self.prompts(inputs)
        new_tokens = self.max_new_tokens or longest
        return {**inputs, **self.continued(models, prompts, max_new_tokens=new_tokens)}

    def prompts(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], int]:
        """The token ids of each prompt, and the length of the longest answer that follows one."""
        input_ids, labels = inputs["input_ids"], inputs.get("labels")
        attention_mask = inputs.get("attention_mask", torch.ones_like(input_ids)).bool()
        prompts, answers = [], []
        for row, mask in enumerate(attention_mask):
            ids = input_ids[row][mask]
            length = self.prompt_tokens
            if labels is not None and labels[row][mask][0] == IGNORE_INDEX:
                length = int((labels[row][mask] != IGNORE_INDEX).int().argmax())
            prompts.append(ids[: max(min(length, len(ids) - 1), 1)])
            answers.append(len(ids) - len(prompts[-1]))
        return prompts, max([1, *answers])

    def continued(self, models: LoopModels, prompts: list[Tensor], *, max_new_tokens: int) -> dict[str, Tensor]:
        """Inputs with the student's continuation of `prompts`, whose tokens alone have labels."""
        pad, end = _special(models.tokenizer)
        width = max(map(len, prompts))
        left = torch.stack([torch.nn.functional.pad(ids, (width - len(ids), 0), value=pad) for ids in prompts])
        lengths = torch.tensor([len(ids) for ids in prompts], device=left.device)
        mask = torch.arange(width, device=left.device) >= width - lengths[:, None]
        whole = models.generate(left, mask.long(), max_new_tokens=max_new_tokens, pad_token_id=pad, **self.sampling)
        answer = whole[:, width:]
        is_end = (answer == end).int() if end is not None else torch.zeros_like(answer)
        written = is_end.cumsum(1) - is_end == 0  # up to and with the first end of text
        return _right_padded(prompts, [row[keep] for row, keep in zip(answer, written, strict=True)], pad)


def _special(tokenizer: PreTrainedTokenizerBase | None) -> tuple[int, int | None]:
    if tokenizer is None:
        raise ValueError(
            "The student writes its own training text, for which the ids of padding and of the end of a text must be "
            "known. Give the trainer processing_class=tokenizer."
        )
    end = tokenizer.eos_token_id
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end
    return int(pad or 0), end


def _right_padded(prompts: list[Tensor], answers: list[Tensor], pad: int) -> dict[str, Tensor]:
    width = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    batch: dict[str, list[Tensor]] = {"input_ids": [], "attention_mask": [], "labels": []}
    for prompt, answer in zip(prompts, answers, strict=True):
        padding = (0, width - len(prompt) - len(answer))
        ids = torch.cat([prompt, answer])
        columns = {
            "input_ids": (ids, pad),
            "attention_mask": (torch.ones_like(ids), 0),
            "labels": (torch.cat([torch.full_like(prompt, IGNORE_INDEX), answer]), IGNORE_INDEX),
        }
        for name, (values, filler) in columns.items():
            batch[name].append(torch.nn.functional.pad(values, padding, value=filler))
    return {name: torch.stack(rows) for name, rows in batch.items()}
