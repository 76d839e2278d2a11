"""A teacher behind any OpenAI-compatible endpoint: vLLM, SGLang, ``transformers serve``, hosted services."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ...ledger import Answer, Usage
from .attempts import AttemptFailed, Pace, may_succeed_later
from .base import TeacherUnavailable, TextAccount, TextRequest, TextTeacher, price
from .replies import Reply, answer_of

if TYPE_CHECKING:
    import httpx

LARGEST_REPLY = 16 * 2**20  # bytes; what is longer than this never was an answer


class EndpointTeacher(TextTeacher):
    """Asks a server over HTTP, several requests at a time.

    Rate limits (429), broken connections, time-outs, server errors and replies that make no sense are tried again; what
    the server says against the request itself is not. A request that fails for good is an answer with the status
    "failed", "timed_out" or "refused"; a server that nobody can use ends the call.

    Args:
        url: of the interface, with its version: "http://127.0.0.1:8000/v1".
        model: what the server calls the model.
        api_key_env: the environment variable that holds the key; None sends none. The key itself is nowhere kept.
        chat: ask /chat/completions; False continues plain text at /completions, for models without a chat template.
        max_tokens: the longest answer; None leaves it to the server.
        temperature: of the sampling; None leaves it to the server.
        top_p: of the sampling; None leaves it to the server.
        stop: texts that end the answer.
        extra: further fields of the request's body; they are written to the ledger.
        prompt_price: of a million tokens read; without both prices the cost is unknown.
        completion_price: of a million tokens written.
        concurrency: how many requests may be under way together.
        requests_per_minute: how many may start in a minute; None for no limit of ours.
        attempts: how often a request is tried.
        first_wait: seconds before the second attempt, at most; doubled for each further one and drawn at random below.
        longest_wait: the longest of these waits; a server that asks for a longer one is unavailable.
        connect_timeout: seconds until the server must take the connection.
        read_timeout: seconds that may pass without a byte; the first comes when the answer is complete.
        answer_timeout: seconds for the whole answer.
        retry_failed: ask again what failed or timed out in the ledger.

    Raises:
        ValueError: an option that makes no sense, or a key that is not there.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        chat: bool = True,
        max_tokens: int | None = 2048,
        temperature: float | None = None,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        extra: Mapping[str, Any] | None = None,
        prompt_price: float | None = None,
        completion_price: float | None = None,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        attempts: int = 5,
        first_wait: float = 1.0,
        longest_wait: float = 60.0,
        connect_timeout: float = 10.0,
        read_timeout: float = 300.0,
        answer_timeout: float = 600.0,
        retry_failed: bool = False,
    ) -> None:
        _check_url(url)
        positive = {
            "concurrency": concurrency,
            "attempts": attempts,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "answer_timeout": answer_timeout,
            "requests_per_minute": 1 if requests_per_minute is None else requests_per_minute,
            "max_tokens": 1 if max_tokens is None else max_tokens,
        }
        for name, value in positive.items():
            if not value > 0:
                raise ValueError(f"{name} is {value!r}; expected a number above 0.")
        self.url = url.rstrip("/")
        self.model = model
        self.api_key_env = api_key_env
        self.chat = chat
        self.body: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p}
        self.body = {name: value for name, value in self.body.items() if value is not None}
        self.body |= {"stop": list(stop)} if stop else {}
        self.body |= extra or {}
        self.prices = {"prompt_price": prompt_price, "completion_price": completion_price}
        self.concurrency = concurrency
        self.requests_per_minute = requests_per_minute
        self.attempts = attempts
        self.first_wait = first_wait
        self.longest_wait = longest_wait
        self.connect_timeout = connect_timeout
        self.read_timeout = read_timeout
        self.answer_timeout = answer_timeout
        self.retry_failed = retry_failed
        self._key()

    def settings(self) -> dict[str, Any]:
        """See `TextTeacher.settings`."""
        return {"chat": self.chat, **self.body}

    def ask(self, requests: Sequence[TextRequest], account: TextAccount) -> None:
        """See `TextTeacher.ask`."""
        _import_client()
        from anyio.from_thread import start_blocking_portal

        # A loop in a thread of its own: in a notebook this thread has one that is running already.
        with start_blocking_portal() as portal:
            portal.call(self._ask_all, requests, account)

    async def _ask_all(self, requests: Sequence[TextRequest], account: TextAccount) -> None:
        import anyio
        import httpx

        pace = Pace(
            requests_per_minute=self.requests_per_minute, first_wait=self.first_wait, longest_wait=self.longest_wait
        )
        key = self._key()
        waiting = iter(requests)
        timeout = httpx.Timeout(self.read_timeout, connect=self.connect_timeout, pool=None)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx.AsyncClient(headers=headers, timeout=timeout) as client, anyio.create_task_group() as tasks:
            for _ in range(min(self.concurrency, len(requests))):
                tasks.start_soon(self._work, client, pace, waiting, account, key)

    async def _work(
        self, client: httpx.AsyncClient, pace: Pace, waiting: Iterator[TextRequest], account: TextAccount, key: str
    ) -> None:
        """Ask one request after another until there are none or something stops the account.

        Errors go to the account and not up, so that the requests that others have under way are finished and kept.
        """
        for request in waiting:
            try:
                answer = await self._answer(client, pace, request, account, key)
                account.finish(request, answer)
            except Exception as error:
                account.stop = account.stop or error
            if account.stop is not None:
                return

    async def _answer(
        self, client: httpx.AsyncClient, pace: Pace, request: TextRequest, account: TextAccount, key: str
    ) -> Answer:
        """The answer to one request, after as many attempts as it takes."""
        from anyio import sleep
        from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

        retrying = AsyncRetrying(
            sleep=sleep,
            stop=stop_after_attempt(self.attempts),
            wait=pace.wait_before_retry,
            retry=retry_if_exception(may_succeed_later),
            reraise=True,
        )
        lost: list[Usage] = []
        last = ""
        try:
            async for attempt in retrying:
                with attempt:
                    try:
                        await pace.turn()
                        account.begin(request, after=last)
                        answer = _scrubbed(answer_of(await self._post(client, request)), key)
                    except AttemptFailed as failure:
                        last = _scrub(str(failure), key)
                        lost += [failure.usage] if failure.usage else []
                        if failure.retry_after is not None and failure.retry_after > self.longest_wait:
                            failure.again = False
                            last += (
                                f" and asks to wait {failure.retry_after:.0f} s; longest_wait is {self.longest_wait}"
                            )
                        raise
        except AttemptFailed as failure:
            if failure.unavailable:
                raise TeacherUnavailable(f"The teacher {self.model!r} is unavailable: {last}.") from None
            answer = Answer(None, failure.status, Usage(), error=last)
        return replace(answer, usage=price(_total([answer.usage, *lost]), **self.prices))

    async def _post(self, client: httpx.AsyncClient, request: TextRequest) -> Reply:
        """Send one request and read the whole reply.

        Raises:
            AttemptFailed: there is none, or it takes too long.
        """
        import anyio
        import httpx

        body = {"model": self.model, "seed": request.seed, **self.body, **self._prompt(request)}
        path = "/chat/completions" if self.chat else "/completions"
        received = bytearray()
        try:
            with anyio.fail_after(self.answer_timeout):
                async with client.stream("POST", self.url + path, json=body) as response:
                    async for part in response.aiter_bytes():
                        received += part
                        if len(received) > LARGEST_REPLY:
                            raise AttemptFailed(f"the answer does not end: over {LARGEST_REPLY} bytes")
                    return Reply(response.status_code, response.headers, bytes(received))
        except TimeoutError:
            raise AttemptFailed(f"no whole answer in {self.answer_timeout} s", status="timed_out") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise AttemptFailed(f"no connection ({type(error).__name__})", unavailable=True) from None
        except httpx.TimeoutException as error:
            raise AttemptFailed(f"the server fell silent ({type(error).__name__})", status="timed_out") from None
        except httpx.HTTPError as error:
            raise AttemptFailed(f"the connection broke ({type(error).__name__})") from None

    def _prompt(self, request: TextRequest) -> dict[str, Any]:
        text = isinstance(request.messages, str)
        if not self.chat:
            if not text:
                raise ValueError(
                    "With chat=False the prompt is plain text, but got messages: only a chat has a template."
                )
            return {"prompt": request.messages}
        return {"messages": [{"role": "user", "content": request.messages}] if text else request.messages}

    def _key(self) -> str:
        """The key, read when it is needed and kept nowhere; empty where none is used."""
        if self.api_key_env is None:
            return ""
        # Who writes the key itself here must not see it again in the message, nor must their log.
        if not re.fullmatch(r"[A-Z][A-Z0-9_]*", self.api_key_env):
            raise ValueError(
                "api_key_env is not the NAME of an environment variable in upper case, such as MY_API_KEY."
            )
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise ValueError(
                f"The environment variable {self.api_key_env} holds no key; set it, or leave api_key_env out."
            )
        return key


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "The url holds a key, a password or a query; put the key into a variable and name it in api_key_env."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'The url is {url!r}; expected one such as "http://127.0.0.1:8000/v1".')


def _import_client() -> None:
    try:
        import anyio  # noqa: F401
        import httpx  # noqa: F401
        import tenacity  # noqa: F401
    except ImportError as error:
        raise ValueError(f"An endpoint needs {error.name}: pip install 'hf-distill[server]'.") from None


def _total(usages: Sequence[Usage]) -> Usage:
    """The sum, as far as the parts are known."""
    sums = []
    for name in ("prompt_tokens", "completion_tokens"):
        known = [value for usage in usages if (value := getattr(usage, name)) is not None]
        sums.append(sum(known) if known else None)
    return Usage(*sums)


def _scrub(text: str, key: str) -> str:
    return text.replace(key, "***") if key else text


def _scrubbed(answer: Answer, key: str) -> Answer:
    """`answer` without the key, which a server may repeat."""
    text = None if answer.text is None else _scrub(answer.text, key)
    return replace(answer, text=text, error=_scrub(answer.error, key))
