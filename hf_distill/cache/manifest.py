"""What a store says about itself: one JSON file, written once, that every reader and writer checks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from .errors import DamagedStore
from .rows import BOUND

FILE = "manifest.json"
FORMAT = "hf-distill teacher cache"
VERSION = 1
DTYPES = ("float16", "bfloat16", "float32")


@dataclass(frozen=True)
class Manifest:
    """What a store holds and who said it.

    Attributes:
        fingerprints: what must be the same for the stored numbers to be right ("teacher", "tokenizer", "template"...),
            as strings that nobody takes apart.
        vocab_size: of the token rows; None where examples have none.
        k: most ids that a position keeps; None where that is not limited.
        arrays: data type by name of the dense arrays of each example: float16, bfloat16 or float32.
        settings: how the numbers were made, for people and commands; JSON.
        order: checksum of the order of the vocabulary by which ids are coded; set by the writer. None: their own order.
    """

    fingerprints: Mapping[str, str]
    vocab_size: int | None = None
    k: int | None = None
    arrays: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    order: str | None = None

    def __post_init__(self) -> None:
        if self.vocab_size is None and not self.arrays:
            raise ValueError("A cache holds token rows (give vocab_size), dense arrays (give arrays), or both.")
        if self.vocab_size is not None and not 1 <= self.vocab_size < 2**24:
            raise ValueError(f"vocab_size is {self.vocab_size}; expected 1 to {2**24 - 1:,}.")
        for name, dtype in self.arrays.items():
            if dtype not in DTYPES:
                raise ValueError(f"Array {name!r} is to be stored as {dtype!r}; expected one of {', '.join(DTYPES)}.")

    def check(self, expected: Mapping[str, str], path: Path) -> None:
        """Raise a ValueError with both where an `expected` fingerprint is not that of the store."""
        for name, fingerprint in expected.items():
            if (found := self.fingerprints.get(name)) != fingerprint:
                raise ValueError(
                    f"The teacher cache {path} was made with another {name}: its fingerprint there is {found}, "
                    f"here it is {fingerprint}. Use the {name} of the capture, or capture again."
                )

    def check_same(self, other: Manifest, path: Path) -> None:
        """Raise a ValueError where a capture with `other` as its manifest may not go on with this store."""
        self.check(other.fingerprints, path)
        for name in ("fingerprints", "vocab_size", "k", "arrays", "settings"):
            if (found := getattr(self, name)) != (given := getattr(other, name)):
                raise ValueError(
                    f"The teacher cache {path} was begun with {name} {found}; this capture has {given}. "
                    "Capture into another folder, or with what it was begun with."
                )

    def save(self, path: Path) -> None:
        """Write the manifest into the folder `path`, at once or not at all."""
        content = {"format": FORMAT, "version": VERSION, "bound": BOUND, **asdict(self)}
        temporary = path / f"{FILE}.part"
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path / FILE)


def load(path: Path) -> Manifest:
    """The manifest of the store in the folder `path`.

    Raises:
        FileNotFoundError: there is no store.
        ValueError: it has another format version.
        DamagedStore: the file cannot be read.
    """
    try:
        content = json.loads((path / FILE).read_text(encoding="utf-8"))
        found = content["format"], content["version"], content["bound"]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is not a teacher cache: it has no {FILE}.") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedStore(f"{path / FILE} cannot be read: {error!r}.") from error
    if found != (FORMAT, VERSION, BOUND):
        raise ValueError(
            f"{path} has format {found[0]!r}, version {found[1]!r}, bound {found[2]!r}; this version of hf-distill "
            f"reads {FORMAT!r}, version {VERSION}, bound {BOUND}. Capture again, or use the version that wrote it."
        )
    return Manifest(**{field.name: content[field.name] for field in fields(Manifest)})
