"""Labelled texts that every Python installation holds: docstrings, by their module of the standard library."""

from __future__ import annotations

import ast
import sysconfig
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

# Of these there are many docstrings in every version of Python.
MODULES = (
    "asyncio",
    "email",
    "http",
    "ipaddress",
    "logging",
    "mailbox",
    "multiprocessing",
    "pathlib",
    "statistics",
    "tarfile",
    "unittest",
    "xml",
)
_DOCUMENTED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def load_docstrings(modules: Sequence[str] = MODULES, *, min_words: int = 4) -> list[dict[str, str]]:
    """The first paragraphs of the docstrings of classes and functions, ``{"text": ..., "label": module}``.

    A paragraph that several modules have is left out; the module's own name is not.

    Args:
        modules: modules and packages of the standard library.
        min_words: shorter paragraphs say little and are left out.

    Raises:
        ValueError: a module that is not there.
    """
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, str] = {}
    shared = set()
    for module in sorted(modules):
        paths = [library / f"{module}.py", *sorted((library / module).rglob("*.py"))]
        paths = [
            path for path in paths if path.is_file() and not {"test", "tests"} & {*path.relative_to(library).parts}
        ]
        if not paths:
            raise ValueError(f"This Python installation has no source of {module!r}; name other modules.")
        for text in (text for path in paths for text in _paragraphs(path)):
            if len(text.split()) >= min_words and found.setdefault(text, module) != module:
                shared.add(text)
    return [{"text": text, "label": module} for text, module in found.items() if text not in shared]


def _paragraphs(path: Path) -> Iterator[str]:
    with tokenize.open(path) as file:  # honours the encoding that the source declares
        tree = ast.parse(file.read())
    for node in ast.walk(tree):
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield " ".join(docstring.partition("\n\n")[0].split())
