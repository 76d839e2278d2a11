"""From what a text teacher answered to the items it was asked for: JSON among prose, broken in the usual ways.

>>> parse_items('Sure! [{"text": "hello", "label": "greeting"},] Anything else?')
Parsed(items=[{'text': 'hello', 'label': 'greeting'}], truncated=False)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..serving.extras import import_extra

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL | re.IGNORECASE)
_LIST_START = re.compile(r"\[\s*\{")
_LIST_END = re.compile(r"\}\s*,?\s*\]")
_NEXT_LIST = re.compile(r"\}\s*,?\s*\]\s*,?\s*\[\s*\{")
_NEXT_OBJECT = re.compile(r"\}\s*,?\s*(?:[\r\n]+\s*(?:\d+[.)]|[-*])?\s*)\{")


@dataclass(frozen=True)
class Parsed:
    """The items of an answer.

    Attributes:
        items: in the order of the answer, of whatever types it holds.
        truncated: whether the answer broke off; its last item, which may be cut in the middle, is then left out.
    """

    items: list[Any]
    truncated: bool = False


def parse_items(answer: str) -> Parsed:
    """The objects of the JSON list in an answer, whatever stands around it.

    Understands fences, prose before and after, a list inside an object, objects one a line, several lists, trailing
    commas, single quotes, unescaped quotes and an ending that is missing (by the library json-repair).

    Raises:
        ValueError: there is no list of objects in the answer; the message can be sent back to the teacher.
    """
    text = _THOUGHTS.sub("", answer)
    start, end = _LIST_START.search(text), _last(_LIST_END, text)
    truncated = False
    if start is not None:
        truncated = end is None or end < start.start()
        body = text[start.start() :] if truncated else text[start.start() : end]
    elif "{" in text:
        truncated = "}" not in text[text.index("{") :]
        body = "[" + (text[text.index("{") :] if truncated else text[text.index("{") : text.rindex("}") + 1] + "]")
    else:
        raise ValueError(f"it holds no JSON list of objects but begins {answer.strip()[:80]!r}")
    items = _objects(body)
    if truncated:
        items = items[:-1]
    if not items:
        raise ValueError("its JSON list is empty" + (" or breaks off in the first item" if truncated else ""))
    return Parsed(items, truncated)


def _last(pattern: re.Pattern[str], text: str) -> int | None:
    """Where the last match ends."""
    ends = [match.end() for match in pattern.finditer(text)]
    return ends[-1] if ends else None


def _objects(body: str) -> list[Any]:
    try:
        found = json.loads(body)
    except json.JSONDecodeError:
        found = import_extra("json_repair", "rounds").loads(_NEXT_OBJECT.sub("},\n{", _NEXT_LIST.sub("},\n{", body)))
    return found if isinstance(found, list) else []
