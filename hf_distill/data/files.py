"""Tables from files, folders and the hub, for every task: how they are opened, and what is wrong where they are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset

_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
    ".parquet": "parquet",
}


def load_table(path: str | None, name: str | None, data_files: Any) -> DatasetDict:
    """What `datasets.load_dataset` gives, by split.

    Args:
        path: a name on the hub, a folder, or a builder ("json", "text", ...); None to tell by the files' ending.
        name: configuration of that data set.
        data_files: files or patterns, or a mapping of split to these.

    Raises:
        ValueError: it cannot be found, or the ending is not known.
    """
    try:
        options = {}
        if path is None and _first(data_files).removesuffix(".gz").endswith(".tsv"):
            options["sep"] = "\t"
        return load_dataset(path or _builder_of(data_files), name, data_files=data_files, **options)
    except (FileNotFoundError, StopIteration) as error:  # a pattern that matches nothing ends in StopIteration
        raise ValueError(f"data cannot be found: {error or data_files!r}") from error


def split_of(found: DatasetDict, split: str, columns: list[str]) -> Dataset:
    """One split, which has these columns.

    Raises:
        ValueError: it has not, or is not there.
    """
    if split not in found:
        raise ValueError(f"There is no split {split!r}; the data has {', '.join(found)}.")
    rows: Dataset = found[split]
    for column in columns:
        if column not in rows.column_names:
            raise ValueError(f"The {split} split has no column {column!r}; it has {', '.join(rows.column_names)}.")
    return rows


def _builder_of(data_files: Any) -> str:
    """The builder that reads files of these names."""
    first = _first(data_files)
    ending = Path(first.removesuffix(".gz")).suffix
    if ending not in _BUILDERS:
        raise ValueError(f"{first!r} ends in none of {', '.join(_BUILDERS)}; say in data.path how to read it.")
    return _BUILDERS[ending]


def _first(data_files: Any) -> str:
    while not isinstance(data_files, str):
        data_files = next(iter(data_files.values() if isinstance(data_files, Mapping) else data_files))
    return data_files
