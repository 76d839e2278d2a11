"""A teacher behind any OpenAI-compatible endpoint: vLLM, SGLang, ``transformers serve``, hosted services.

It speaks HTTP through httpx and not through the `openai` package. That one hands what the variables OPENAI_* hold
(organization, project, custom headers) to whatever address it is given, fixes the waits between its retries, and passes
a reply that is not JSON on as if it were an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .credentials import check_url, read_key, scrubber
from .request_runner import RequestRunner
from .retries import Pace
from .text_teacher import TextAccount, TextRequest, TextTeacher

_OUR_FIELDS = {"model", "messages", "prompt", "stream", "n"}


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
        extra: further fields of the request's body, {"max_completion_tokens": 2048} for instance; they are written to
            the ledger.
        seed_field: what the server calls the seed; None for one that takes none.
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

    Attributes:
        works: whether it ever answered; until then a failed request may be the server's fault, and is not recorded.

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
        seed_field: str | None = "seed",
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
        check_url(url)
        positive = {
            "concurrency": concurrency,
            "attempts": attempts,
            "connect_timeout": connect_timeout,
            "read_timeout": read_timeout,
            "answer_timeout": answer_timeout,
            "requests_per_minute": 1 if requests_per_minute is None else requests_per_minute,
            "max_tokens": 1 if max_tokens is None else max_tokens,
            "first_wait": first_wait,
            "longest_wait": longest_wait,
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
        if taken := _OUR_FIELDS & self.body.keys():
            raise ValueError(f"extra sets {', '.join(sorted(taken))}, which the teacher sets itself.")
        self.seed_field = seed_field
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
        self.works = False
        read_key(api_key_env)

    def settings(self) -> dict[str, Any]:
        """See `TextTeacher.settings`."""
        return {"chat": self.chat, **self.body}

    def ask(self, requests: Sequence[TextRequest], account: TextAccount) -> None:
        """See `TextTeacher.ask`."""
        _import_client()
        from anyio.from_thread import start_blocking_portal

        bodies = [self._body(request) for request in requests]
        # A loop in a thread of its own: in a notebook this thread has one that is running already.
        with start_blocking_portal() as portal:
            portal.call(self._ask_all, list(zip(requests, bodies, strict=True)), account)

    async def _ask_all(self, requests: Sequence[tuple[TextRequest, dict[str, Any]]], account: TextAccount) -> None:
        import httpx

        key = read_key(self.api_key_env)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(self.read_timeout, connect=self.connect_timeout, pool=None)
        pace = Pace(
            requests_per_minute=self.requests_per_minute, first_wait=self.first_wait, longest_wait=self.longest_wait
        )
        # A connection of its own for each request: one that is kept may be closed by the server just as the next
        # request is sent on it, which then is lost and may have been paid for.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        async with httpx.AsyncClient(headers=headers, timeout=timeout, limits=limits) as client:
            await RequestRunner(self, client, pace, account, scrubber(key)).all(requests)

    def _body(self, request: TextRequest) -> dict[str, Any]:
        """What is sent for `request`."""
        is_text = isinstance(request.messages, str)
        if self.chat:
            prompt = {"messages": [{"role": "user", "content": request.messages}] if is_text else request.messages}
        elif is_text:
            prompt = {"prompt": request.messages}
        else:
            raise ValueError("With chat=False a prompt is plain text, but got messages: only a chat has a template.")
        seed = {self.seed_field: request.seed} if self.seed_field else {}
        return {"model": self.model, **seed, **self.body, **prompt}


def _import_client() -> None:
    try:
        import anyio  # noqa: F401
        import httpx  # noqa: F401
        import tenacity  # noqa: F401
    except ImportError as error:
        raise ValueError(f"An endpoint needs {error.name}: pip install 'hf-distill[server]'.") from None
