"""The order of the vocabulary by which ids are coded: frequent words first makes them smaller."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load as parse
from safetensors.numpy import save as dump

from .bits import Integers
from .errors import DamagedStore

FILE = "order.safetensors"


def by_frequency(counts: NDArray[np.int64]) -> Integers:
    """Ids by how often the corpus has them, equals by number; `counts` ``[V]``, for instance of `np.bincount`."""
    return np.argsort(-np.asarray(counts), kind="stable")


def save(path: Path, order: Integers) -> str:
    """Write an order of ids, ``[V]``, into the store; returns its checksum."""
    content = dump({"order": order.astype(np.uint32)})
    temporary = path / f"{FILE}.part"
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / FILE)
    return hashlib.sha256(content).hexdigest()


def load(path: Path, sha256: str) -> Integers:
    """The order that `save` wrote.

    Raises:
        DamagedStore: it is not.
    """
    try:
        content = (path / FILE).read_bytes()
    except FileNotFoundError:
        raise DamagedStore(f"{path / FILE} is missing, but the manifest names it.") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise DamagedStore(f"{path / FILE} is not what was written: its SHA-256 differs from the manifest's.")
    return parse(content)["order"].astype(np.int64)
