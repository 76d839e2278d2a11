"""A text teacher that is a causal language model in this process."""

from __future__ import annotations

import bisect
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from .answers import Answer, Usage
from .sampling import SeededSampling
from .text_teacher import Prompt, TextAccount, TextRequest, TextTeacher

_Batch = list[tuple[TextRequest, list[int]]]


class LocalTextTeacher(TextTeacher):
    """Prompts a `transformers` model, several prompts at a time.

    An answer depends on its prompt, its seed and the options alone: not on the prompts beside it (up to rounding), and
    the random numbers of a training in the same process stay as they were.

    Args:
        model: the model itself, or a folder or hub name for `from_pretrained`.
        tokenizer: its tokenizer, or where to load it from; by default beside the model.
        max_tokens: the longest answer.
        temperature: of the sampling; 0 takes the likeliest token.
        top_p: sample from the likeliest tokens that make up this share.
        stop: texts that end the answer; they are not part of it.
        batch_size: how many prompts are answered together.
        dtype: of the weights when loaded by name; "auto" keeps that of the checkpoint.
        device: where to; by default an accelerator if there is one. A model object stays where it is.
        trust_remote_code: passed to `from_pretrained`; off unless asked for.

    Raises:
        ValueError: an option that makes no sense, or a model object without a tokenizer.
    """

    def __init__(
        self,
        model: PreTrainedModel | str | Path,
        *,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        max_tokens: int = 2048,
        temperature: float = 1.0,
        top_p: float = 1.0,
        stop: Sequence[str] = (),
        batch_size: int = 8,
        dtype: str | torch.dtype = "auto",
        device: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        for name, value, fits in (
            ("max_tokens", max_tokens, max_tokens > 0),
            ("batch_size", batch_size, batch_size > 0),
            ("temperature", temperature, temperature >= 0),
            ("top_p", top_p, 0 < top_p <= 1),
        ):
            if not fits:
                raise ValueError(f"{name} is {value!r}; expected a number {'up to 1 ' * (name == 'top_p')}above 0.")
        self._is_object = isinstance(model, PreTrainedModel)
        self.module: Any  # a PreTrainedModel, whose `generate` has no type that fits
        if isinstance(model, PreTrainedModel):
            self.model = self._name = model.name_or_path or type(model).__name__
            self.module = model
            if tokenizer is None:
                raise ValueError("A model object does not know its tokenizer; give tokenizer=.")
        else:
            self.model = str(model)
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                self.model, dtype=dtype, trust_remote_code=trust_remote_code
            )
            self.module = loaded.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        if tokenizer is None or isinstance(tokenizer, str):
            tokenizer = AutoTokenizer.from_pretrained(tokenizer or self.model, trust_remote_code=trust_remote_code)
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.temperature = temperature
        self.top_p = top_p
        self.stop = list(stop)
        self.batch_size = batch_size

    def settings(self) -> dict[str, Any]:
        """See `TextTeacher.settings`."""
        return {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self.stop,
        }

    def generate(self, prompts: Sequence[Prompt], *, seed: int = 0, purpose: str = "") -> list[Answer]:
        """See `TextTeacher.generate`."""
        if self._is_object:
            # It may have been trained since the last call; the ledger must not answer for what it was.
            self.model = f"{self._name}@{fingerprint(self.module)}"
        return super().generate(prompts, seed=seed, purpose=purpose)

    def ask(self, requests: Sequence[TextRequest], account: TextAccount) -> None:
        """See `TextTeacher.ask`."""
        encoded = [(request, self._encode(request)) for request in requests]
        for start in range(0, len(encoded), self.batch_size):
            batch: _Batch = []
            try:
                for request, ids in encoded[start : start + self.batch_size]:
                    account.begin(request)
                    if problem := self._problem(ids):
                        account.finish(request, Answer(None, "failed", error=problem))
                    else:
                        batch.append((request, ids))
            finally:
                # What was begun is finished, also where the budget ends in the middle of a batch.
                for group in self._groups(batch):
                    for (request, _), answer in zip(group, self._answers(group), strict=True):
                        account.finish(request, answer)

    def _groups(self, batch: _Batch) -> list[_Batch]:
        """`batch` in groups that are answered together: a prompt that leaves no room for `max_tokens` is one by itself.

        Beside longer prompts it would have less room than alone.
        """
        limit = self._limit()
        together = [one for one in batch if len(one[1]) + self.max_tokens <= limit]
        alone = [[one] for one in batch if len(one[1]) + self.max_tokens > limit]
        return ([together] if together else []) + alone

    def _limit(self) -> int:
        """How many tokens the model takes, read and written together."""
        return getattr(self.module.config, "max_position_embeddings", None) or sys.maxsize

    def _encode(self, request: TextRequest) -> list[int]:
        """Token ids of a prompt, in the model's chat template where it has one."""
        messages = request.messages
        if self.tokenizer.chat_template is None:
            if not isinstance(messages, str):
                raise ValueError(
                    f"The tokenizer of {self.model} has no chat template, so a prompt is plain text, but got messages."
                )
            ids: list[int] = self.tokenizer(messages)["input_ids"]
            return ids
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        chat = [dict(message) for message in messages]
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        # The template writes the special tokens itself.
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _problem(self, ids: list[int]) -> str:
        """Why a prompt cannot be answered; empty where it can."""
        if not ids:
            return "the prompt is empty"
        if len(ids) >= self._limit():
            return f"the prompt has {len(ids)} tokens; the model takes {self._limit()}, its answer included"
        return ""

    def _answers(self, batch: _Batch) -> list[Answer]:
        prompts = [ids for _, ids in batch]
        seeds = [_seed_of(request.seed, ids) for request, ids in batch]
        device = self.module.device
        width = max(map(len, prompts))
        padding = self._padding()
        input_ids = torch.tensor([[padding] * (width - len(ids)) + ids for ids in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        training = self.module.training
        self.module.eval()
        try:
            output = self.module.generate(
                input_ids=input_ids,
                attention_mask=mask,
                generation_config=self._generation_config(width),
                logits_processor=self._processors(seeds, device),
                tokenizer=self.tokenizer if self.stop else None,
            )
        finally:
            self.module.train(training)
        return [self._answer(len(ids), row[width:].tolist()) for ids, row in zip(prompts, output, strict=True)]

    def _answer(self, num_prompt_tokens: int, ids: list[int]) -> Answer:
        """The answer in what was generated, which goes on with padding where other rows were longer."""
        ends = [index for index, token in enumerate(ids) if token in self._ends()]
        ids = ids[: ends[0] + 1] if ends else ids
        text = self._decode(ids)
        stops = [position for stop in self.stop if (position := text.find(stop)) >= 0]
        if stops:
            text = text[: min(stops)]
            ids = ids[: self._num_tokens_to_stop(ids)]
        usage = Usage(num_prompt_tokens, len(ids), cost=0.0)
        if not text.strip():
            return Answer(None, "failed", usage, error="the answer is empty", finish_reason="stop")
        return Answer(text, usage=usage, finish_reason="stop" if ends or stops else "length")

    def _decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _num_tokens_to_stop(self, ids: list[int]) -> int:
        """How many tokens it took to write the first stop text."""

        def is_written(num_tokens: int) -> bool:
            text = self._decode(ids[:num_tokens])
            return any(stop in text for stop in self.stop)

        return bisect.bisect_left(range(len(ids) + 1), True, key=is_written)

    def _ends(self) -> list[int]:
        ends = self.module.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    def _padding(self) -> int:
        padding = self.tokenizer.pad_token_id
        return padding if padding is not None else next(iter(self._ends()), 0)

    def _generation_config(self, width: int) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=min(self.max_tokens, self._limit() - width),
            do_sample=False,  # the noise of `SeededSampling` makes the likeliest token a sample
            eos_token_id=self._ends() or None,
            pad_token_id=self._padding(),
            stop_strings=self.stop or None,
        )

    def _processors(self, seeds: Sequence[int], device: torch.device) -> LogitsProcessorList:
        if self.temperature == 0:
            return LogitsProcessorList()
        processors = LogitsProcessorList([TemperatureLogitsWarper(float(self.temperature))])
        if self.top_p < 1:
            processors.append(TopPLogitsWarper(self.top_p))
        processors.append(SeededSampling(seeds, device))
        return processors


def _seed_of(seed: int, ids: list[int]) -> int:
    """A seed for one prompt: under a common one, prompts that are alike would get answers that are alike."""
    return int.from_bytes(hashlib.sha256(repr((seed, ids)).encode()).digest()[:8], "big") >> 1


def fingerprint(module: nn.Module) -> str:
    """Short for the weights of `module`: other weights give another one."""
    sums = []
    with torch.no_grad():
        for name, weight in module.state_dict().items():
            values = weight.float()
            sums.append((name, values.sum(dtype=torch.float64).item(), values.abs().sum(dtype=torch.float64).item()))
    return hashlib.sha256(repr(sums).encode()).hexdigest()[:12]
