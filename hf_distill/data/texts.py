"""Real text that every Python installation holds, in four domains: what the demo, examples and benchmarks train on.

    texts = load_texts("python")
    texts["train"][0]   # {"text": "...", "domain": "code", "document": "json/decoder.py"}

Nothing is downloaded. The domains keep their natural sizes, about two thirds of it source code, and are cut into
train, probe and test by document. The same interpreter gives the same documents in the same order everywhere.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import tokenize
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.utils import logging

if TYPE_CHECKING:
    from datasets import DatasetDict

logger = logging.get_logger(__name__)

# A document's name, and what reads it: most documents are left out by name and never opened.
Document = tuple[str, Callable[[], str]]

_HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
_CHARACTERS_PER_DOCUMENT = 128
# Tests are not installed everywhere; codecs are tables, pydoc_data is prose, the others describe the machine.
_NOT_CODE = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings", "pydoc_data"}
_OF_THE_MACHINE = ("config-", "_sysconfigdata", "_sysconfig_vars")


def load_texts(
    name: str = "python", *, share: float = 0.5, probe_fraction: float = 0.08, test_fraction: float = 0.08
) -> DatasetDict:
    """Documents of several domains, in the splits train, probe and test.

    ===========  =============================================================  =========================
    domain       documents                                                      size, Python 3.11, share 1
    ===========  =============================================================  =========================
    ``code``     source of the standard library, one module a document          9.9 MB
    ``docs``     the language reference by topic; docstrings, module by module  2.2 MB
    ``headers``  the C headers of the interpreter, where they are installed     0.9 MB
    ``unicode``  the character database, 128 code points a document             1.3 MB
    ===========  =============================================================  =========================

    A module's source and its docstrings are in the same split, so that no test text is part of the training text.

    Args:
        name: "python" is the only collection so far.
        share: how much to take of each domain, from 0 to 1; which documents is decided by their names.
        probe_fraction: share of the documents that go to the probe split.
        test_fraction: share of the documents that go to the test split.

    Returns:
        Data sets of the columns ``text``, ``domain`` and ``document``, sorted by domain and document.

    Raises:
        ValueError: an unknown name, or shares that are not between 0 and 1.
    """
    from datasets import Dataset, DatasetDict

    if name != "python":
        raise ValueError(f'There is no collection of texts called {name!r}; there is "python".')
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; expected more than 0 and at most 1.")
    rows: dict[str, list[dict[str, str]]] = {"train": [], "probe": [], "test": []}
    for domain, documents in sorted(_DOMAINS.items()):
        found = 0
        for document, read in sorted(documents(), key=lambda entry: entry[0]):
            found += 1
            if position(document, "share") < share and (text := read()):
                split = split_of(document, probe_fraction=probe_fraction, test_fraction=test_fraction)
                rows[split].append({"text": text, "domain": domain, "document": document})
        if not found:
            logger.warning("This Python installation has no %s; the domain is left out.", domain)
    columns = ("text", "domain", "document")
    return DatasetDict(
        {
            split: Dataset.from_dict({column: [row[column] for row in split_rows] for column in columns})
            for split, split_rows in rows.items()
        }
    )


def split_of(document: str, *, probe_fraction: float, test_fraction: float) -> str:
    """The split that a document belongs to, by a hash of what identifies it; the same everywhere and every time.

    Raises:
        ValueError: the fractions leave nothing for training.
    """
    if min(probe_fraction, test_fraction) < 0 or probe_fraction + test_fraction >= 1:
        raise ValueError(
            f"probe_fraction is {probe_fraction} and test_fraction {test_fraction}; expected neither below 0, and "
            "together less than 1."
        )
    place = position(document, "split")
    return "test" if place < test_fraction else "probe" if place < test_fraction + probe_fraction else "train"


def position(document: str, purpose: str) -> float:
    """A number in [0, 1) that looks random and depends on the arguments alone."""
    digest = hashlib.sha256(f"{purpose}:{document}".encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _code() -> Iterator[Document]:
    library = Path(sysconfig.get_path("stdlib"))
    for path in library.rglob("*.py"):
        name = path.relative_to(library)
        if not _NOT_CODE & set(name.parts) and not name.parts[0].startswith(_OF_THE_MACHINE):
            yield name.as_posix(), partial(_source, path)


def _docs() -> Iterator[Document]:
    from pydoc_data.topics import topics

    for topic, text in topics.items():
        yield f"topics/{topic}", partial(str, text)
    for name, read in _code():
        yield name, partial(_docstrings, read)


def _headers() -> Iterator[Document]:
    folder = Path(sysconfig.get_path("include"))
    for path in folder.rglob("*.h"):
        name = path.relative_to(folder).as_posix()
        # Made by ./configure: it describes the machine that Python was built on.
        if path.name != "pyconfig.h":
            yield name, partial(path.read_text, encoding="utf-8", errors="replace")


def _unicode() -> Iterator[Document]:
    for start in range(0, 0x110000, _CHARACTERS_PER_DOCUMENT):
        lines = [line for code in range(start, start + _CHARACTERS_PER_DOCUMENT) if (line := _describe(code))]
        if lines:
            yield f"unicode/{start:06X}", partial("\n".join, lines)


_DOMAINS: dict[str, Callable[[], Iterator[Document]]] = {
    "code": _code,
    "docs": _docs,
    "headers": _headers,
    "unicode": _unicode,
}


def _source(path: Path) -> str:
    with tokenize.open(path) as file:  # honours the encoding that the source declares
        return file.read()


def _docstrings(read_source: Callable[[], str]) -> str:
    """All docstrings of a module, in order, without importing it; empty where there are none."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(read_source())) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return "\n\n".join(text for node in nodes if (text := ast.get_docstring(node)))


def _describe(code: int) -> str | None:
    """A line of the character database: code point, name, category, direction and decomposition."""
    character = chr(code)
    name = unicodedata.name(character, None)
    # Tens of thousands of ideographs and syllables have names that follow from their number.
    if name is None or code in _HANGUL_SYLLABLES or name.endswith(f"{code:X}"):
        return None
    properties = (unicodedata.category, unicodedata.bidirectional, unicodedata.decomposition)
    return ";".join([f"{code:04X}", name, *(read(character) for read in properties)])
