"""What a text teacher is: prompts in, answers out, with the ledger and the budget in between."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .answers import Answer, Usage
from .budget import Budget, BudgetExhausted
from .ledger import Ledger

Message = Mapping[str, Any]
"""One message of a chat: ``{"role": "user", "content": "..."}``."""
Prompt = str | Sequence[Message]


class TeacherUnavailable(RuntimeError):
    """The teacher cannot be asked at all: it is not there, lets nobody in, or has no time. What it answered is kept."""


@dataclass(frozen=True)
class TextRequest:
    """One thing to ask.

    Attributes:
        id: its name in the ledger.
        messages: chat messages, or plain text.
        seed: of the answer's sampling; differs between repetitions of one prompt in one call.
    """

    id: str
    messages: Prompt
    seed: int


class TextAccount:
    """Keeps ledger and budget while requests are asked; a `TextTeacher` gets it in `ask`.

    Attributes:
        stop: why no more may be asked; None while more may.
    """

    def __init__(self, teacher: TextTeacher, purpose: str) -> None:
        self._teacher = teacher
        self._purpose = purpose
        self.answers: dict[str, Answer] = {}
        self.stop: Exception | None = None

    def begin(self, request: TextRequest, *, after: str = "") -> None:
        """Call before every attempt at a request: checks the budget and writes the ledger.

        Args:
            request: what will be asked.
            after: what went wrong at the attempt before, where there was one.

        Raises:
            BudgetExhausted, TeacherUnavailable: no more may be asked.
        """
        if self.stop is not None:
            raise self.stop
        budget, ledger = self._teacher.budget, self._teacher.ledger
        if budget is not None:
            try:
                budget.check()
            except BudgetExhausted as stop:
                self.stop = stop
                raise
        if ledger is not None:
            ledger.request(**self._teacher.identity(request), purpose=self._purpose, after=after)
        if budget is not None:
            budget.count_request()

    def finish(self, request: TextRequest, answer: Answer) -> None:
        """Call with the answer to a request: it is on disk when this returns."""
        answer = replace(answer, request_id=request.id)
        if self._teacher.ledger is not None:
            self._teacher.ledger.answer(request.id, answer)
        self.answers[request.id] = answer
        if self._teacher.budget is not None:
            try:
                # What failed gave nobody a chance to say.
                self._teacher.budget.count_answer(answer.usage, must_say=answer.status == "answered")
            except ValueError as error:
                self.stop = error


class TextTeacher(ABC):
    """Writes texts when prompted. Generators make data with it; it gives no signal for a batch.

    A subclass sets `model` and implements `ask`. Its options decide what it writes, so it lists them in `settings`.

    Attributes:
        model: who it is; the ledger knows its answers by this name.
        ledger: where requests and answers are kept; None for nowhere. Set by `make_text_teacher` or by hand.
        budget: what may be spent; None for no limit. Set with the ledger.
        retry_failed: ask again what failed or timed out when the ledger was written, rather than take it as it was.
    """

    model: str
    ledger: Ledger | None = None
    budget: Budget | None = None
    retry_failed: bool = False

    @abstractmethod
    def ask(self, requests: Sequence[TextRequest], account: TextAccount) -> None:
        """Ask `requests`: for each, ``account.begin(request)``, then ask, then ``account.finish(request, answer)``.

        What is raised by `begin` may be left to rise.

        Raises:
            TeacherUnavailable: there is nobody to ask.
        """

    def settings(self) -> dict[str, Any]:
        """What else decides its answers, for the ledger: temperature, length limit ... Values must be JSON."""
        return {}

    def attach(self, *, ledger: Ledger | None = None, budget: Budget | None = None) -> None:
        """Keep `ledger`, and stay within `budget`, of which what the ledger says was spent is spent."""
        self.ledger, self.budget = ledger, budget
        if ledger is not None and budget is not None:
            budget.include(ledger)

    def identity(self, request: TextRequest) -> dict[str, Any]:
        """What makes `request` what it is to the ledger."""
        return {"model": self.model, "messages": request.messages, "seed": request.seed, "settings": self.settings()}

    def generate(self, prompts: Sequence[Prompt], *, seed: int = 0, purpose: str = "") -> list[Answer]:
        """Answers to `prompts`, in their order; those in the ledger are taken from it and nothing is asked.

        Args:
            prompts: each a list of chat messages, or plain text.
            seed: of the sampling. A prompt that is given twice is sampled twice.
            purpose: what they are for, to find them in the ledger: "round 3".

        Raises:
            ValueError: a prompt that is neither text nor messages.
            BudgetExhausted: the budget was reached; it holds the answers so far.
            TeacherUnavailable: nobody could be asked; answers so far are in the ledger.
        """
        requests = self._requests(prompts, seed)
        account = TextAccount(self, purpose)
        if self.ledger is not None:
            for request in requests:
                known = self.ledger.find(request.id)
                if known is not None and not (self.retry_failed and known.status in ("failed", "timed_out")):
                    account.answers[request.id] = known
        to_ask = [request for request in requests if request.id not in account.answers]
        if to_ask:
            try:
                self.ask(to_ask, account)
            except BudgetExhausted as stop:
                account.stop = stop
        if isinstance(account.stop, BudgetExhausted):
            answers = [account.answers.get(request.id) for request in requests]
            raise BudgetExhausted(str(account.stop), answers) from None
        if account.stop is not None:
            raise account.stop
        return [account.answers[request.id] for request in requests]

    def _requests(self, prompts: Sequence[Prompt], seed: int) -> list[TextRequest]:
        if isinstance(prompts, str):
            raise ValueError("prompts is one text; expected a list of prompts: [prompt].")
        requests: list[TextRequest] = []
        repetitions: Counter[str] = Counter()
        for prompt in prompts:
            _check_prompt(prompt)
            request = self._request(prompt, seed)
            repetition = repetitions[request.id]
            repetitions[request.id] += 1
            requests.append(self._request(prompt, _derived_seed(seed, repetition)) if repetition else request)
        return requests

    def _request(self, prompt: Prompt, seed: int) -> TextRequest:
        request = TextRequest("", prompt if isinstance(prompt, str) else list(prompt), seed)
        return replace(request, id=Ledger.request_id(**self.identity(request)))


def price(usage: Usage, *, prompt_price: float | None, completion_price: float | None) -> Usage:
    """`usage` with its cost, from prices for a million tokens; it stays None where tokens or prices are unknown."""
    read, written = usage.prompt_tokens, usage.completion_tokens
    if read is None or written is None or prompt_price is None or completion_price is None:
        return usage
    return replace(usage, cost=(read * prompt_price + written * completion_price) / 1e6)


def _check_prompt(prompt: Any) -> None:
    if not isinstance(prompt, str) and not _are_messages(prompt):
        raise ValueError(
            f"A prompt is {type(prompt).__name__}; expected text, or a list of messages "
            '[{"role": "user", "content": "..."}].'
        )
    try:
        json.dumps(prompt if isinstance(prompt, str) else list(prompt), ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        # Half of a surrogate pair, for instance: a string in Python, but no text.
        raise ValueError(f"A prompt cannot be sent as JSON in UTF-8: {type(error).__name__}.") from None


def _are_messages(prompt: Any) -> bool:
    """Whether `prompt` is a list of chat messages."""
    return (
        isinstance(prompt, Sequence)
        and len(prompt) > 0
        and all(isinstance(message, Mapping) and {"role", "content"} <= message.keys() for message in prompt)
    )


def _derived_seed(seed: int, repetition: int) -> int:
    """Another seed, which no neighbouring seed gives; fits the 31 bits that every endpoint takes."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{repetition}".encode()).digest()[:4], "big") >> 1
