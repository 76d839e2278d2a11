"""How much may be asked: in requests, tokens and money."""

from __future__ import annotations

from collections.abc import Sequence

from .answers import Answer, Usage
from .ledger import Ledger
from .summary import LedgerSummary


class BudgetExhausted(RuntimeError):
    """The budget does not allow another request. Everything that was asked before is answered and in the ledger.

    Attributes:
        answers: of the call that was stopped: one for each prompt, None for those that were not asked.
    """

    def __init__(self, message: str, answers: Sequence[Answer | None] = ()) -> None:
        super().__init__(message)
        self.answers = list(answers)


class Budget:
    """Limits on what the teachers of a run may take together.

    Each attempt at a request counts as a request, since its server may charge for it. Tokens and money are counted when
    an answer says what it took: requests already in flight when a limit is reached are finished and counted, so that
    at most those go beyond it.

    Args:
        requests: how often something may be asked, repetitions after failures included.
        tokens: how many may be read and written together.
        money: in the currency of the teacher's prices.

    Attributes:
        requests, tokens, money: the limits; None where there is none.
        spent_requests, spent_tokens, spent_money: what was taken so far.

    Raises:
        ValueError: a limit that is negative or no number.
    """

    def __init__(self, *, requests: int | None = None, tokens: int | None = None, money: float | None = None) -> None:
        for name, limit in (("requests", requests), ("tokens", tokens), ("money", money)):
            if limit is not None and (isinstance(limit, bool) or not isinstance(limit, (int, float)) or not limit >= 0):
                raise ValueError(
                    f"The budget's {name} is {limit!r}; expected a number from 0 up, or None for no limit."
                )
        self.requests = requests
        self.tokens = tokens
        self.money = money
        self.spent_requests = 0
        self.spent_tokens = 0
        self.spent_money = 0.0
        self._included: list[Ledger] = []

    def include(self, ledger: Ledger) -> None:
        """Count what `ledger` says was spent already, once: a run that goes on has what is left of its budget."""
        if ledger not in self._included:
            self._included.append(ledger)
            before: LedgerSummary = ledger.summary()
            self.spent_requests += before.num_attempts
            self.spent_tokens += before.prompt_tokens + before.completion_tokens
            self.spent_money += before.cost or 0.0

    def check(self) -> None:
        """See that another request is allowed.

        Raises:
            BudgetExhausted: a limit is reached; names it.
        """
        for name, limit, spent in (
            ("requests", self.requests, self.spent_requests),
            ("tokens", self.tokens, self.spent_tokens),
            ("money", self.money, self.spent_money),
        ):
            if limit is not None and spent >= limit:
                raise BudgetExhausted(f"The budget of {limit:g} in {name} is spent ({spent:g}).")

    def count_request(self) -> None:
        """Count a request that is about to be asked."""
        self.spent_requests += 1

    def count_answer(self, usage: Usage, *, must_say: bool = True) -> None:
        """Count what an answer took.

        Args:
            usage: as far as it is known.
            must_say: whether an answer that does not say what it took is an error where that is limited.

        Raises:
            ValueError: it does not say, but tokens or money are limited.
        """
        self.spent_tokens += (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
        self.spent_money += usage.cost or 0.0
        if not must_say:
            return
        if self.tokens is not None and (usage.prompt_tokens is None or usage.completion_tokens is None):
            raise ValueError("The budget limits tokens, but the answer does not say how many it took; limit requests.")
        if self.money is not None and usage.cost is None:
            raise ValueError(
                "The budget limits money, but the cost of an answer is unknown; give the teacher's prompt_price and "
                "completion_price, or limit requests."
            )
