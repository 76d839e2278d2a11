"""Keys of endpoints: they come from the environment, are read when they are needed, and appear nowhere else."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from urllib.parse import urlsplit


def read_key(variable: str | None) -> str:
    """The key in the environment variable `variable`; empty where that is None.

    Raises:
        ValueError: it holds no key, or `variable` is no name. What was given is not repeated: it may be the key itself.
    """
    if variable is None:
        return ""
    if not re.fullmatch(r"[A-Z][A-Z0-9_]*", variable):
        raise ValueError("api_key_env is not the NAME of an environment variable in upper case, such as MY_API_KEY.")
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]+", key):
        raise ValueError(f"The environment variable {variable} is not set, or what it holds is no key.")
    return key


def check_url(url: str) -> None:
    """See that `url` is one, and holds no secret.

    Raises:
        ValueError: it is not, or does.
    """
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise ValueError(
            "The url holds a key, a password or a query; put the key into a variable and name it in api_key_env."
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'The url is {url!r}; expected one such as "http://127.0.0.1:8000/v1".')


def scrubber(key: str) -> Callable[[str], str]:
    """Takes `key` out of texts: a server may repeat it in an error or an answer.

    It is a function, so that no frame in a traceback has the key among its local variables.
    """

    def scrub(text: str) -> str:
        return text.replace(key, "***") if key else text

    return scrub
