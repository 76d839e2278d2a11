"""Asking an endpoint: several requests at a time, each as often as it takes, within the time that it may take."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .answers import Answer, Usage
from .replies import Reply, answer_of
from .retries import AttemptFailed, Pace, may_succeed_later
from .text_teacher import TeacherUnavailable, TextAccount, TextRequest, price

if TYPE_CHECKING:
    import httpx

    from .endpoint import EndpointTeacher

LARGEST_REPLY = 16 * 2**20  # bytes; what is longer than this never was an answer

Sendable = tuple[TextRequest, dict[str, Any]]
"""A request and the body that is sent for it."""


class RequestRunner:
    """One call of `EndpointTeacher.generate`, inside its event loop.

    Args:
        teacher: its options.
        client: the connections.
        pace: when requests may start.
        account: the ledger and the budget.
        scrub: takes the key out of what the server says.
    """

    def __init__(
        self,
        teacher: EndpointTeacher,
        client: httpx.AsyncClient,
        pace: Pace,
        account: TextAccount,
        scrub: Callable[[str], str],
    ) -> None:
        self.teacher = teacher
        self.client = client
        self.pace = pace
        self.account = account
        self.scrub = scrub
        # Whether the endpoint is known to work; a wrong address, for instance, fails each request in the same way.
        self._works = teacher.works or any(answer.status == "answered" for answer in account.answers.values())
        self._doubtful: set[str] = set()
        self._held: list[tuple[TextRequest, Answer]] = []

    async def all(self, requests: Sequence[Sendable]) -> None:
        """Ask all requests, or those until something stops the account."""
        import anyio

        waiting = iter(requests)
        async with anyio.create_task_group() as tasks:
            for _ in range(min(self.teacher.concurrency, len(requests))):
                tasks.start_soon(self._work, waiting)
        if self._held and self.account.stop is None:
            self.account.stop = self._never_worked()
        self.teacher.works = self._works

    async def _work(self, waiting: Iterator[Sendable]) -> None:
        """Ask one request after another.

        Errors go to the account and not up, so that the requests that others have under way are finished and kept.
        """
        for request, body in waiting:
            try:
                self._keep(request, await self._answer(request, body))
            except Exception as error:
                self.account.stop = self.account.stop or error
            if self.account.stop is not None:
                return

    def _keep(self, request: TextRequest, answer: Answer) -> None:
        """Finish `request`, unless it failed and nothing tells that the endpoint works: then that is waited for.

        Raises:
            TeacherUnavailable: several requests failed, and none succeeded.
        """
        if answer.status == "answered":
            self._works = True
        if self._works or request.id not in self._doubtful:
            self.account.finish(request, answer)
        else:
            self._held.append((request, answer))
            if len(self._held) >= max(3, self.teacher.concurrency):
                raise self._never_worked()
        if self._works:
            for other in self._held:
                self.account.finish(*other)
            self._held.clear()

    def _never_worked(self) -> TeacherUnavailable:
        return TeacherUnavailable(
            f"The teacher {self.teacher.model!r} answered none of {len(self._held)} requests, the last with: "
            f"{self._held[-1][1].error}."
        )

    async def _answer(self, request: TextRequest, body: dict[str, Any]) -> Answer:
        """The answer to one request, after as many attempts as it takes.

        Raises:
            TeacherUnavailable: the endpoint is at fault, and not the request.
        """
        from anyio import sleep
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retrying = AsyncRetrying(
            sleep=sleep,
            stop=stop_after_attempt(self.teacher.attempts),
            wait=self.pace.wait_before_retry,
            retry=retry_if_exception(may_succeed_later),
            reraise=True,
        )
        lost: list[Usage] = []  # what attempts took that gave no answer
        problem = ""
        try:
            async for attempt in retrying:
                with attempt:
                    try:
                        answer = await self._attempt(request, body, problem)
                    except AttemptFailed as failure:
                        problem = self._said(str(failure))
                        lost.append(failure.usage)
                        raise
        except AttemptFailed as failure:
            if failure.blame == "endpoint":
                raise TeacherUnavailable(f"The teacher {self.teacher.model!r} is unavailable: {problem}.") from None
            answer = Answer(None, failure.status, error=problem)
            if failure.blame == "either":
                self._doubtful.add(request.id)
        return replace(
            answer,
            text=None if answer.text is None else self.scrub(answer.text),
            error=self._said(answer.error),
            usage=price(_total([answer.usage, *lost]), **self.teacher.prices),
        )

    async def _attempt(self, request: TextRequest, body: dict[str, Any], problem: str) -> Answer:
        await self.pace.turn()
        self.account.begin(request, after=problem)
        try:
            return answer_of(await self._post(body))
        except AttemptFailed as failure:
            asked, longest = failure.retry_after, self.teacher.longest_wait
            if asked is None or asked <= longest:
                raise
            text = f"it asks to wait {asked:.0f} s, but longest_wait is {longest:g}: {failure}"
            raise AttemptFailed(text, again=False, blame="endpoint") from None

    def _said(self, text: str) -> str:
        """What went wrong, without the key, and then short: the other way round, half of a key might be left."""
        text = self.scrub(text)
        return text if len(text) <= 300 else f"{text[:300]}..."

    async def _post(self, body: dict[str, Any]) -> Reply:
        """Send one request and read the whole reply.

        Raises:
            AttemptFailed: there is none, or it takes too long.
        """
        import anyio
        import httpx

        url = self.teacher.url + ("/chat/completions" if self.teacher.chat else "/completions")
        received = bytearray()
        try:
            with anyio.fail_after(self.teacher.answer_timeout):
                async with self.client.stream("POST", url, json=body) as response:
                    async for part in response.aiter_bytes():
                        received += part
                        if len(received) > LARGEST_REPLY:
                            raise AttemptFailed(f"the answer does not end within {LARGEST_REPLY} bytes")
                    return Reply(response.status_code, response.headers, bytes(received))
        except TimeoutError:
            problem = f"no whole answer within {self.teacher.answer_timeout:g} s"
            raise AttemptFailed(problem, status="timed_out") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AttemptFailed(f"no connection ({type(error).__name__})", blame="endpoint") from None
        except httpx.TimeoutException as error:
            raise AttemptFailed(f"the server fell silent ({type(error).__name__})", status="timed_out") from None
        except httpx.HTTPError as error:
            raise AttemptFailed(f"the connection broke ({type(error).__name__})", blame="either") from None


def _total(usages: Sequence[Usage]) -> Usage:
    """The sum, as far as the parts are known."""
    sums = []
    for name in ("prompt_tokens", "completion_tokens"):
        known = [value for usage in usages if (value := getattr(usage, name)) is not None]
        sums.append(sum(known) if known else None)
    return Usage(*sums)
