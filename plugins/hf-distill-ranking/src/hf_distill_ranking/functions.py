"""Search for a function by what it does, in the standard library of any Python: a ranking without a download.

A query is the first paragraph of a docstring, its relevant document the function's name and arguments in words, and the
other documents are functions of the same module and of others.
"""

from __future__ import annotations

import ast
import functools
import random
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Tests and tools are not installed everywhere; encodings are tables.
_LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "idlelib", "lib2to3"}
_TEST_SHARE = 0.2
_MIN_WORDS = 4

Row = dict[str, Any]


def load_function_search(*, num_documents: int = 8, seed: int = 0) -> dict[str, list[Row]]:
    """Rows of ``query``, ``documents`` (the relevant one first) and ``labels``, in the splits train and test.

    No module (package) is in both splits.

    Args:
        num_documents: of each query; half of the others are of the same module, where it has so many.
        seed: decides which documents stand beside which.

    Raises:
        ValueError: fewer than two documents.
    """
    if num_documents < 2:
        raise ValueError(f"num_documents is {num_documents}; expected at least 2.")
    modules = _modules()
    names = sorted(modules)
    random.Random(seed).shuffle(names)
    num_test = round(_TEST_SHARE * len(names))
    splits = {"test": names[:num_test], "train": names[num_test:]}
    return {
        split: _lists({name: modules[name] for name in members}, num_documents, seed)
        for split, members in splits.items()
    }


@functools.cache  # reading the whole library takes seconds
def _modules() -> dict[str, dict[str, str]]:
    modules: dict[str, dict[str, str]] = {}
    for module, query, document in _functions():
        modules.setdefault(module, {}).setdefault(document, query)
    return modules


def _lists(modules: dict[str, dict[str, str]], num_documents: int, seed: int) -> list[Row]:
    rng = random.Random(seed)
    all_documents = sorted({document for module in modules.values() for document in module})
    rows = []
    for queries in modules.values():
        for document, query in queries.items():
            near = [other for other in queries if other != document]
            chosen = rng.sample(near, min(len(near), (num_documents - 1) // 2))
            taken = {document, *chosen}
            far = [other for other in rng.sample(all_documents, min(len(all_documents), 2 * num_documents))]
            chosen += [other for other in far if other not in taken][: num_documents - 1 - len(chosen)]
            labels = [1, *[0] * len(chosen)]
            rows.append({"query": query, "documents": [document, *chosen], "labels": labels})
    rng.shuffle(rows)
    return rows


def _functions() -> Iterator[tuple[str, str, str]]:
    """Module, description and name with arguments of every function that has a docstring, each description once."""
    library = Path(sysconfig.get_path("stdlib"))
    seen = set()
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if _LEFT_OUT & {*parts}:
            continue
        with tokenize.open(path) as file:  # honours the encoding that the source declares
            tree = ast.parse(file.read())
        for node in ast.walk(tree):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or node.name.startswith("__"):
                continue
            query = " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())
            if len(query.split()) >= _MIN_WORDS and query not in seen:
                seen.add(query)
                arguments = [argument.arg for argument in node.args.args if argument.arg not in ("self", "cls")]
                yield parts[0], query, " ".join(map(_in_words, [node.name, *arguments]))


def _in_words(name: str) -> str:
    return " ".join(re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)).lower() or name
